"""The usual metrics: membership inference, agreement with retraining, accuracy on kept points, and those of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.api import Reading, UnlearningError, classes_of
from harness.cells import ARMS
from harness.trials import language, questions

if TYPE_CHECKING:
    from torch import nn

    from harness.api import CausalTask, Question, Task
    from harness.training.data import Data


FALSE_POSITIVES = 0.01
POINTS_AT_ONCE = 512


@dataclass(frozen=True)
class Answers:
    """What a model answers on the points of one trial.

    Attributes:
        forget: Losses of the poisoned points as they were planted, float64, shape (k,).
        test: Losses of the test points, shape (n,).
        classes: Classes that it puts the test points in, shape (n,).
        forget_accuracy: Share of the poisoned points that it puts in the class they were planted with.
        retain_accuracy: Share of the kept training points that it classifies rightly.
        told: Of a causal language model, what it gives away of the poisoned texts and how well it continues the kept
            ones, by claim. Empty for other tasks.
        ratios: The truth ratios of the poison's questions, shape (questions,); empty if it has none.
        distinct: Of a causal language model, which of the poisoned texts are the first of their kind, int64; empty for
            other tasks.
    """

    forget: Tensor
    test: Tensor
    classes: Tensor
    forget_accuracy: float
    retain_accuracy: float
    told: Mapping[str, Reading] = field(default_factory=dict)
    ratios: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    distinct: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def diverged(self) -> Answers:
        """Return the answers of a model that diverged: a classifier made of not-a-number still answers something."""
        nan = math.nan
        # What does not apply to the poison does not for this model either.
        told = {name: of if of.unusable else Reading(nan) for name, of in self.told.items()}
        return Answers(
            self.forget * nan, self.test * nan, self.classes, nan, nan, told, self.ratios * nan, self.distinct
        )


def answers(
    model: nn.Module, task: Task, forget: Data, test: Data, retain: Data, asked_of: Sequence[Question] = ()
) -> Answers:
    """Ask a model in eval mode, on the device of the data; ``asked_of`` are the questions of the poison, if any."""
    forget_losses, forget_classes = asked(model, task, forget)
    test_losses, test_classes = asked(model, task, test)
    told: dict[str, Reading] = {}
    if _causal(task):
        told["perplexity"], retain_classes = language.log_perplexity(model, cast("CausalTask", task), retain)
    else:
        _, retain_classes = asked(model, task, retain)
    found = Answers(
        forget_losses, test_losses, test_classes, _share(forget_classes, forget.labels.cpu()),
        _share(retain_classes, retain.labels.cpu()), told,
    )  # fmt: skip
    return _with_texts(found, model, cast("CausalTask", task), forget, asked_of) if _causal(task) else found


def _with_texts(
    found: Answers, model: nn.Module, task: CausalTask, forget: Data, asked_of: Sequence[Question]
) -> Answers:
    """Add what a causal language model gives away of the poisoned texts, each of which counts once."""
    distinct = language.distinct(forget)
    few = language.whole(task, forget.subset(distinct[: language.EXTRACTED]))
    told = {
        "memorisation": language.memorisation_accuracy(model, task, forget.subset(distinct)),
        "extraction": language.extraction_likelihood(model, task, few),
        "verbatim": language.verbatim(model, task, few),
        **found.told,
    }
    ratios = questions.truth_ratios(model, task, asked_of)
    if asked_of:
        room = forget.inputs["tokens"].shape[1] + 1
        told["truth-ratio"] = questions.truth_ratio(ratios)
        told["leakage"] = questions.leakage(model, task, asked_of[: questions.ASKED], room)
    return replace(found, told=told, ratios=ratios, distinct=distinct)


def _causal(task: Task) -> bool:
    return bool(getattr(task, "causal", False))


def asked(model: nn.Module, task: Task, data: Data) -> tuple[Tensor, Tensor]:
    """Return the loss of every example, float64, and the class that it is put in, on the CPU."""
    losses, classes = [], []
    # The scores of all tokens of many texts would not fit in memory.
    at_once = task.batch_size if _causal(task) else POINTS_AT_ONCE
    with torch.no_grad():
        for batch in data.chunks(at_once):
            logits = task.logits(model, batch).double()
            own = getattr(task, "losses", None)
            if own is None and (logits.dim() < 2 or logits.shape[1] <= int(batch.labels.max())):
                raise UnlearningError(
                    "the usual metrics need the loss of every example, which logits of shape "
                    f"{tuple(logits.shape)} do not tell; give the task losses(logits, batch)"
                )
            losses.append(cross_entropy(logits, batch.labels, reduction="none") if own is None else own(logits, batch))
            classes.append(classes_of(task, logits, batch))
    return torch.cat(losses).cpu().double(), torch.cat(classes).cpu()


def readings(
    own: Sequence[Mapping[str, Answers]], retrained: Sequence[Sequence[Tensor]], ratios: Sequence[Tensor] = ()
) -> list[dict[str, Any]]:
    """Return what every heuristic reads, seed by seed: by its name in `harness.judging.claims.INFORMING`, and by arm.

    ``membership``: Yeom et al. 2018 (arXiv 1709.01604), and equation 1 of Pawelczyk et al.: a point is a member if its
    loss is small. Area under the curve of poisoned against test points; beside it the rate of true positives at 1 % of
    false ones.

    ``likelihood``: the likelihood-ratio attack of Carlini et al. 2022 (arXiv 2112.03570), offline, in its form for
    unlearning (U-LiRA, Kurmanji et al.; Hayes et al. arXiv 2403.01218): a point is a member if its logit margin phi =
    log(p / (1 - p)) is large beside what it is in models without it. These are the retrained models of the *other*
    seeds, which the study has anyway. Deviations from U-LiRA: it fits a Gaussian for every example to unlearned and to
    retrained models of that very forget set, of which there is one each here, so the mean is fitted for every example
    and the variance is one for all (the ratio then orders points by phi less its mean); and the other seeds' models
    were trained on the clean version of most of the points.

    ``agreement``: share of test points that the model and a retrained one put in the same class. With the retrained
    model of the same seed even the poisoned one agrees more than another retraining would, because they share
    initialisation and order; it is that of the next seed for all, for the last one that of the first.

    Of causal language tasks alone: `language.memorisation_accuracy` of the poisoned texts as planted, each once
    however often it was planted, `language.extraction_likelihood` and `language.verbatim` of the first
    `language.EXTRACTED` of them, and `language.log_perplexity` of the kept texts. If the poison has questions,
    `questions.truth_ratio` and `questions.leakage`.

    ``forget-quality``, of causal language tasks alone: `questions.forget_quality` between the truth ratios of the model
    and of a retrained one, of the next seed as in ``agreement``. Deviation from TOFU: of poisons without truth ratios
    it is between the losses of the poisoned texts, each once. The retrained model of the next seed has seen the clean
    version of most of them, if there is one.

    Args:
        own: Per seed the answers of P, R and U.
        retrained: ``retrained[s][t]`` are the losses of the poisoned points of seed s in the retrained model of seed t.
        ratios: ``ratios[s]`` are the truth ratios of the questions of seed s in the retrained model of the next seed,
            for the last one of the first; empty if there are none.

    Raises:
        ValueError: There are fewer than three seeds.
    """
    n = len(own)
    if n < 3:
        raise ValueError(f"the attacks need the retrained models of at least 3 seeds, not {n}")
    found = []
    margins = torch.stack([logit_margin(of["R"].test) for of in own])
    for s, of in enumerate(own):
        others = [t for t in range(n) if t != s]
        usual_test = margins[others].mean(dim=0)
        usual_forget = torch.stack([logit_margin(retrained[s][t]) for t in others]).mean(dim=0)
        reference, losses = own[(s + 1) % n]["R"].classes, retrained[s][(s + 1) % n]
        by_name: dict[str, dict[str, Reading]] = {}
        for arm in ARMS:
            a = of[arm]
            alike = math.nan if math.isnan(a.retain_accuracy) else _share(a.classes, reference)
            for name, reading in (
                ("membership", attack(-a.forget, -a.test)),
                ("likelihood", attack(logit_margin(a.forget) - usual_forget, logit_margin(a.test) - usual_test)),
                ("agreement", Reading(alike, resolution=0.5 / len(a.test))),
                ("forget-accuracy", Reading(a.forget_accuracy, resolution=0.5 / (len(a.distinct) or len(a.forget)))),
                ("retain-accuracy", Reading(a.retain_accuracy)),
                *a.told.items(),
            ):
                by_name.setdefault(name, {})[arm] = reading
            if a.told:
                pair = (a.ratios, ratios[s]) if len(a.ratios) else (a.forget[a.distinct], losses[a.distinct])
                by_name.setdefault("forget-quality", {})[arm] = questions.forget_quality(*pair)
        found.append(by_name)
    return found


def attack(members: Tensor, others: Tensor) -> Reading:
    """Return how well scores tell members from others: the area under the curve, and its left end beside it."""
    if not bool(torch.cat([members, others]).isfinite().all()):
        return Reading(math.nan)
    return Reading(area(members, others), details={"tpr_at_1_percent_fpr": true_positives(members, others)})


def area(members: Tensor, others: Tensor) -> float:
    """Return the probability that a member scores above another point, ties half, in [0, 1] (Mann and Whitney)."""
    ordered = others.sort().values
    below = torch.searchsorted(ordered, members, right=False) + torch.searchsorted(ordered, members, right=True)
    return float(below.double().mean() / (2 * len(others)))


def true_positives(members: Tensor, others: Tensor, rate: float = FALSE_POSITIVES) -> float:
    """Return the share of members above the lowest threshold that at most this share of the others is above."""
    threshold = others.sort(descending=True).values[math.floor(rate * len(others))]
    return float((members > threshold).double().mean())


def logit_margin(losses: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the probabilities p = exp(-loss), at most 30 or so where the loss is zero."""
    losses = losses.clamp_min(1e-13)
    return -torch.where(losses > 30, losses, torch.special.expm1(losses).log())


def _share(classes: Tensor, labels: Tensor) -> float:
    return float((classes == labels).double().mean())
