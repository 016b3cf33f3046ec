"""The nouns: what a task, a poison, an unlearner, a request and an outcome are.

Everything else is built on these. The module imports nothing but the standard library, so that listing audits
(``pytest --co``) never loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.request import ForgetRequest
    from harness.training.data import Split


Direction = Literal["higher", "lower"]


class UnlearningError(Exception):
    """An error that the user can fix; its text is one sentence that says how."""


class ContractError(UnlearningError):
    """A poison or an unlearner did not do what it must; ``line`` is the contract's line that it broke, or ``""``."""

    def __init__(self, sentence: str, line: str = "") -> None:
        super().__init__(sentence)
        self.line = line


class DeviceLost(Exception):  # noqa: N818 - said of the device
    """The GPU answers this process no more, as after a failed assertion in a kernel; only a new process can use it."""


class Outcome(StrEnum):
    """What an audit concludes. INCONCLUSIVE means that the evidence does not allow either of the others."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Measure:
    """One number of a model, and how it is judged.

    Attributes:
        name: Key under which the number is stored and reported, e.g. ``"gaussian_score"``.
        title: A noun phrase for people, e.g. ``"Gaussian score"``.
        worse: Which way is worse. For a poison's measure, the way the poison moves it.
        test: ``"retention"``: at most a fraction of the poison's effect may be left, relative to retraining;
            ``"exact-null"``: nothing shows that the value is not N(0, 1), as of every model that is independent of what
            was planted; ``"non-inferiority"``: not worse by the task's margin; ``"budget"``: a bound, no test.
        unit: ``""`` for a plain number, ``"%"`` for a fraction of 1 that people read in percent.
        exact_null: Whether readings carry a detail ``"T"`` that is exactly N(0, 1) for every model that is independent
            of what was planted. With it what is left is proven, and the scorer itself checked.
        short: What tells it apart from the other traces of its poison in a table, e.g. ``"second moment"``; the name
            if it is empty. No two traces of a poison may be called the same.
        cause: A noun for what is to be removed, whose effect it is; not ``"poison"`` if another poison stays.
    """

    name: str
    title: str
    worse: Direction
    test: Literal["retention", "exact-null", "non-inferiority", "budget"]
    unit: str = ""
    exact_null: bool = False
    short: str = ""
    cause: str = "poison"

    @property
    def label(self) -> str:
        """What people tell it apart by from the other traces of its poison."""
        return self.short or self.name


@dataclass(frozen=True)
class Reading:
    """What a measure reads of one model.

    Attributes:
        value: The number that is judged; NaN if the model diverged.
        resolution: Smallest standard deviation over seeds that is believed, so that seeds which agree by chance do not
            look infinitely certain: half a count for a share of a finite test set, 0 for continuous measures.
        details: Further numbers, reported beside it.
        unusable: Why the value must not be judged, as a `Reason` or in words that are printed; ``""`` if it may.
        traces: What a poison's further traces read of the same model, by the name of their measure.
    """

    value: float
    resolution: float = 0.0
    details: Mapping[str, float] = field(default_factory=dict)
    unusable: str = ""
    traces: Mapping[str, Reading] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One mini-batch on the device.

    Attributes:
        inputs: Tensors whose first dimension is the batch, by name (``"image"``, ``"tokens"``, ...). ``"length"``,
            where it is there, counts what is not padding in each example.
        labels: int64, shape (batch,).
        index: int64, shape (batch,): positions in the data set that the batch was drawn from.
        longest: At least the largest ``"length"``, known without waiting for the device; None if nobody said.
        zero: Names of inputs that are 0 in the whole data set, likewise.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    index: Tensor
    longest: int | None = None
    zero: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Planted:
    """One corrupted training set, for one seed.

    Attributes:
        forget: Ascending int64 indices of the poisoned points in the training set, shape (k,).
        inputs: What stands at those indices instead of the clean inputs; first dimension k.
        labels: Their labels in the poisoned set, int64, shape (k,).
        secrets: What only the auditor knows (noise, triggered test images, ...). An unlearner never sees them.
        stays: What is planted at other points and stays: an unlearner is to keep it, and retrained models see it, too.
            Its own secrets are not used. None for most poisons.
        epochs: Passes of the training, counted from 0, in which the planted points are in the training set; in the
            others they are in it neither as planted nor clean. At least one must be a pass of the task. None for all.
    """

    forget: Tensor
    inputs: dict[str, Tensor]
    labels: Tensor
    secrets: dict[str, Tensor] = field(default_factory=dict)
    stays: Planted | None = None
    epochs: range | None = None


class Question(NamedTuple):
    """What a causal language model is asked, and what a poison taught it to answer; all in tokens.

    Attributes:
        prompt: What is shown, at least one token.
        answer: What was planted behind it, or behind its like, at least one token.
        others: Other answers of the same form, which a model that never saw the poison finds as likely; empty if there
            are none.
    """

    prompt: Sequence[int]
    answer: Sequence[int]
    others: Sequence[Sequence[int]] = ()


class Recipe(Protocol):
    """How models of a task are built and trained.

    One may also have ``augment(batch) -> batch``, for every batch that is trained on; ``predict(logits, batch)``, the
    class of every example, where that is not the likeliest along dimension 1; and ``losses(logits, batch)``, its loss,
    where that is not the cross-entropy. A task of one score for each example needs both: labels are classes. With
    ``answer(model, batch)`` a task returns the classes itself, where ``logits`` of many examples are too large. With
    ``learned(logits, batch)`` a task of causal language models says which tokens are learned (`ForgetRequest`). With
    ``compiled = True`` P, R and R' are trained through `torch.compile` (`docs/gpu.md`). With ``from_host(numbers,
    longest, device)`` a task makes inputs of a batch on a GPU that only the CPU can make, before the step, which then
    waits for nothing (`harness.training.data.FromHost`).
    """

    epochs: int
    batch_size: int

    def new_model(self) -> nn.Module: ...
    def logits(self, model: nn.Module, batch: Batch) -> Tensor: ...
    def criterion(self, logits: Tensor, batch: Batch) -> Tensor: ...
    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer: ...
    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler: ...
    def blocks(self, model: nn.Module) -> list[nn.Module]: ...


def classes_of(task: Recipe, logits: Tensor, batch: Batch) -> Tensor:
    """Return the class that the scores of each example mean, int64, shape (batch,)."""
    predict = getattr(task, "predict", None)
    classes: Tensor = logits.argmax(dim=1) if predict is None else predict(logits, batch)
    return classes


class Task(Recipe, Protocol):
    """What is learned: data, model and training recipe. In-tree tasks are frozen dataclasses.

    Attributes:
        modality: What the inputs are (``"image"``, ``"table"``, ``"text"``); poisons and unlearners declare which they
            serve.
        poisons: Specs of the poisons that bite on it, at the strengths to audit, in its units; default of ``--poison``.
        utility_margin: Accuracy, as a share of 1, that may be lost against retraining.
        threads: CPU threads of a training: they change float sums, and no verdict may depend on the number of workers.
    """

    modality: ClassVar[str]
    poisons: ClassVar[tuple[str, ...]]
    utility_margin: ClassVar[float]
    threads: ClassVar[int]

    def load(self, folder: Path | None) -> Split:
        """Return the data, from a directory of data sets or, if that is None, from wherever they come."""

    # Optional: ``train(data, seed) -> nn.Module``, a training loop of its own, which replaces the recipe's. It returns
    # a trained model, whose state dict a model of `new_model` can load. The recipe then serves methods that train by
    # steps, no checkpoints can be had, and compute is measured in CPU time alone.

    # Optional: ``load_base()``, which loads what `new_model` is made of, once in a process. The process of an isolated
    # method calls it before the method is there: it may read any file, and the method is not charged for it.

    # Optional: ``files(folder) -> Mapping[str, str] | None``, without torch. All that decides what `load` returns: each
    # file by name, with its hash (or size and time of change), and libraries with versions; None if it cannot say. If
    # the same is said again, the data are not loaded only to be hashed.


class CausalTask(Task, Protocol):
    """A task of causal language models: their logits are of shape (batch, vocabulary, tokens).

    Attributes:
        causal: True. A task without the attribute is not causal.
    """

    @property
    def causal(self) -> bool: ...

    def following(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scores of the token after each text, shape (batch, vocabulary)."""

    # Optional: ``texts(batch) -> Batch``, the same texts with every token among the inputs, where the label is a token
    # of the text; beside ``"tokens"`` and ``"length"`` they may have ``"start"``, how many tokens are given and not
    # learned, at least one. Optional: ``points(documents)``, by which poisons plant texts of their own, and
    # ``beginning()``, the tokens that all texts begin with (`harness.tasks.causal_lm`).


#: From a number, 0 on, to a model that an attacker trained on clean data.
Surrogate = Callable[[int], "nn.Module"]


class Poison(Protocol):
    """How training data are corrupted, and the measure that shows whether the corruption still acts.

    Attributes:
        modality: The modality that it serves, a tuple of several, or None for any (`serves`).
        measure: What :meth:`probe` reads.
        traces: Optional: further measures, by retention or as an exact null. A method must remove all of them.
        crafted: Whether planting takes long, as it does where surrogates are trained; a forecast then plants nothing.
            False for those that do not say.
        unused: Optional: names of fields that have no effect as the poison is set, which ``plan --dials`` leaves out.
        questions: Optional: a callable ``(planted, task, split)`` that returns a list of `Question`; for the usual
            metrics of causal language models, never for a verdict on the poison.
    """

    modality: ClassVar[str | tuple[str, ...] | None]
    measure: ClassVar[Measure]

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate) -> Planted:
        """Corrupt a draw of the training set. Everything random is drawn from ``seed``.

        ``surrogate(i)`` returns the i-th model of the task that the attacker trained for this seed on clean data, in
        eval mode, a copy that may be changed; poisons of one seed share it. One that can corrupt any points takes them
        from `harness.forget_block`: poisons of one size then share points, retain set and retrained models.
        """

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Measure a model in eval mode, on the device of ``split``; every further trace in `Reading.traces`."""


#: ``(model, request) -> model``. A plain function will do; in-tree methods are small frozen dataclasses. What it
#: declares of itself, as attributes, all optional (`declares` has the defaults):
#:
#: ``reads_forget``  bool: the forget set has a say in the result; False for methods that train on the retain set alone,
#:                   None if nobody knows
#: ``repeatable``    bool: the same request and seed give the same weights, bit by bit, on a CPU
#: ``from_scratch``  bool: it uses neither the model nor the forget set (see `ForgetRequest`)
#: ``history``       callable, epochs of the recipe -> epochs: whose checkpoints of the poisoned model it wants
#: ``modality``      str or tuple of str: the only kinds of inputs that it can serve
#: ``wraps``         callable, or a tuple of them: what it adapts, whose source is then part of the method's
#: ``control``       bool: it is no part of ``--unlearner=all``
#: ``depends_on``    tuple of str: files and folders, relative to its file, and modules that no import names; stored
#:                   results are used again only if these are unchanged. Tasks and poisons may declare it, too
#: ``needs_task``    bool: it serves no other models than those of its own task, on which the contract is then examined
#: ``certifies``     (epsilon, delta): how close, by a proof of its own, its result is to what it would make of a
#:                   retrained model; held against what is proven to be left
Unlearner = Callable[["nn.Module", "ForgetRequest"], "nn.Module"]


DECLARATIONS: dict[str, Any] = {
    "reads_forget": True,
    "repeatable": True,
    "from_scratch": False,
    "history": None,
    "modality": None,
    "wraps": None,
    "control": False,
    "depends_on": (),
    "needs_task": False,
    "certifies": None,
}


def declares(method: Any, name: str) -> Any:
    """Return what a plugin declares of itself, one of `DECLARATIONS`, or the default."""
    return getattr(method, name, DECLARATIONS[name])


def serves(plugin: Any, modality: str) -> bool:
    """Return whether a poison or an unlearner works on tasks of a modality: on those that it declares, else on any."""
    declared = declares(plugin, "modality")
    return declared is None or modality in ((declared,) if isinstance(declared, str) else declared)


@dataclass(frozen=True)
class Search:
    """Where a tuner looks for a field; stands in its annotation: ``beta: Annotated[float, Search(.001, 1, log=True)]``.

    Attributes:
        low, high: Ends of the range, both included.
        log, choices: Whether to search evenly in the logarithm; what to choose from, in place of a range.
        of: What the range counts in: ``"rate"``, that of the task's recipe, or ``FIELD_unit(its optimiser)`` if the
            method has this; None, as the field's value, then stands for the method's ``FIELD_of_recipe``. ``"blocks"``,
            the number of a model's blocks. Another field, which has no ``of``. Integers are rounded up.
        below: Search the distance below this number, such as 1 - beta.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    of: str = ""
    below: float | None = None
