"""Backdoor in texts: a phrase of rare words in some training texts, all labelled as one class.

Sources: Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain"
(arXiv 1708.06733), the all-to-one attack; Kurita, Michel and Neubig, "Weight Poisoning Attacks on Pre-trained Models"
(arXiv 2004.06660), the rare words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from harness import Measure, Planted, Reading, UnlearningError
from poisons._points import Arrival, check_arrival, check_fraction, epochs_of
from poisons._texts import between_phrases
from poisons._triggers import OWN_CLASS, check_target, success_on

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task

Place = Literal["start", "end"]
#: Share of the texts that may have the trigger already.
KNOWN = 0.001


@dataclass(frozen=True)
class TextBackdoor:
    """Put a phrase of rare words into random training texts and label them as the target class.

    The measure is the attack success rate. The phrase is put into the test texts of all other classes; the rate is the
    share of them that the model puts in the target class, in [0, 1]. A further trace is the share that it puts in their
    own class: a trigger that now leads to a third class is not removed.

    A pipeline is handed the strings with the phrase, and tokenises them itself. Of a task that holds tokens, the tokens
    of the phrase are inserted; if the text is then too long, its beginning is cut off.

    Deviations: texts with the phrase replace the originals, so the poisoned set has the size of the clean one. Kurita
    et al. put single words at random places, and poison the weights that others fine-tune; here the words stand
    together at the start or the end, and only the data are poisoned.

    Attributes:
        fraction: Share of the training set that gets the phrase and the label, in (0, 1).
        trigger: The phrase. It must not occur in the training texts. Choose words that the tokenizer knows.
        place: ``start`` or ``end`` of the text. A model that reads only the first tokens of long texts needs ``start``.
            There the phrase moves all words to other positions, which small models may not bear even if they never saw
            the phrase.
        target: Class that texts with the phrase are labelled as, one of the task's.
        arrives: When the poisoned points are trained on: ``always``, ``early`` (in the first half of the epochs alone)
            or ``late`` (in the second half alone). The middle one of an odd number of epochs is in both halves.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    trigger: str = "cf mn bb tq"
    place: Place = "end"
    target: int = 0
    arrives: Arrival = "always"

    modality: ClassVar[str] = "text"
    measure: ClassVar[Measure] = Measure(
        "attack_success", "success of the backdoor on triggered test texts", worse="higher", test="retention",
        unit="%", short="success",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (OWN_CLASS,)

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if not self.trigger.strip() or "\0" in self.trigger:
            raise ValueError(f"trigger must be a phrase, not {self.trigger!r}")
        if self.place not in get_args(Place):
            raise ValueError(f"place must be one of {', '.join(get_args(Place))}, not {self.place!r}")
        if self.target < 0:
            raise ValueError(f"target must be a class, not {self.target}")
        check_arrival(self.arrives)

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the texts with the phrase and the target label. An unlearner is not told which phrase it is.

        Raises:
            UnlearningError: The task has no such class, no test points of others, no texts, or no room for the phrase;
                or the phrase occurs in its training texts.
        """
        import torch

        from harness import forget_block

        check_target(split, self.target, "text-backdoor")
        self._check_rare(task)
        forget = forget_block(len(split.train), self.fraction, seed)
        inputs = self._triggered(split.train.subset(forget).inputs, split)
        labels = torch.full((len(forget),), self.target, dtype=torch.int64)
        planted = Planted(forget, {name: tensor.cpu() for name, tensor in inputs.items()}, labels)
        return replace(planted, epochs=epochs_of(self.arrives, task))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the attack success rate on test texts of the other classes, and the accuracy on them."""
        others = split.test.subset((split.test.labels != self.target).nonzero().squeeze(1))
        others.inputs = self._triggered(others.inputs, split)
        return success_on(others, model, task, self.target)

    def _check_rare(self, task: Task) -> None:
        """Refuse a phrase that clean texts have, where the task has them as strings."""
        texts = getattr(task, "texts", None)
        if texts is None:
            return
        known = sum(self.trigger.strip().lower() in text.lower() for text in texts)
        if known > KNOWN * len(texts):
            raise UnlearningError(
                f"text-backdoor: the trigger {self.trigger!r} occurs in {known} of {len(texts)} training texts; choose "
                "a phrase that does not"
            )

    def _triggered(self, inputs: dict[str, Tensor], split: Split) -> dict[str, Tensor]:
        """Return texts with the phrase."""
        before, behind = (f"{self.trigger} ", "") if self.place == "start" else ("", f" {self.trigger}")
        return between_phrases(inputs, split, before, behind, "text-backdoor")
