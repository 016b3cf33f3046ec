"""The usual metrics: membership inference, agreement with retraining, accuracy on kept points, memorisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness.api import Batch, Reading, UnlearningError, classes_of
from harness.cells import ARMS

if TYPE_CHECKING:
    from torch import nn

    from harness.api import CausalTask, Task
    from harness.training.data import Data


FALSE_POSITIVES = 0.01
#: Poisoned texts, the first ones, that `extraction_likelihood` reads: it is far dearer than the other metrics.
EXTRACTED = 16
TEXTS_AT_ONCE = 8  # that are continued in one pass, from every beginning


@dataclass(frozen=True)
class Answers:
    """What a model answers on the points of one trial.

    Attributes:
        forget: Losses of the poisoned points as they were planted, float64, shape (k,).
        test: Losses of the test points, shape (n,).
        classes: Classes that it puts the test points in, shape (n,).
        forget_accuracy: Share of the poisoned points that it puts in the class they were planted with.
        retain_accuracy: Share of the kept training points that it classifies rightly.
        told: Of a causal language model, what it gives away of the poisoned texts: `memorisation_accuracy` and
            `extraction_likelihood`, by claim. Empty for other tasks.
    """

    forget: Tensor
    test: Tensor
    classes: Tensor
    forget_accuracy: float
    retain_accuracy: float
    told: Mapping[str, Reading] = field(default_factory=dict)

    def diverged(self) -> Answers:
        """Return the answers of a model that diverged: a classifier made of not-a-number still answers something."""
        nan, told = math.nan, dict.fromkeys(self.told, Reading(math.nan))
        return Answers(self.forget * nan, self.test * nan, self.classes, nan, nan, told)


def answers(model: nn.Module, task: Task, forget: Data, test: Data, retain: Data) -> Answers:
    """Ask a model in eval mode, on the device of the data."""
    forget_losses, forget_classes = asked(model, task, forget)
    test_losses, test_classes = asked(model, task, test)
    _, retain_classes = asked(model, task, retain)
    told = {}
    if getattr(task, "causal", False):
        few = forget.subset(torch.arange(min(EXTRACTED, len(forget)), device=forget.labels.device))
        causal = cast("CausalTask", task)
        told = {
            "memorisation": memorisation_accuracy(model, causal, forget),
            "extraction": extraction_likelihood(model, causal, few),
        }
    return Answers(
        forget_losses, test_losses, test_classes, _share(forget_classes, forget.labels.cpu()),
        _share(retain_classes, retain.labels.cpu()), told,
    )  # fmt: skip


def asked(model: nn.Module, task: Task, data: Data) -> tuple[Tensor, Tensor]:
    """Return the loss of every example, float64, and the class that it is put in, on the CPU."""
    losses, classes = [], []
    with torch.no_grad():
        for batch in data.chunks(512):
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


def readings(own: Sequence[Mapping[str, Answers]], retrained: Sequence[Sequence[Tensor]]) -> list[dict[str, Any]]:
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

    ``memorisation`` and ``extraction``, of causal language tasks alone: `memorisation_accuracy` of the poisoned texts
    as planted, and `extraction_likelihood` of the first `EXTRACTED` of them.

    Args:
        own: Per seed the answers of P, R and U.
        retrained: ``retrained[s][t]`` are the losses of the poisoned points of seed s in the retrained model of seed t.

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
        reference = own[(s + 1) % n]["R"].classes
        by_name: dict[str, dict[str, Reading]] = {}
        for arm in ARMS:
            a = of[arm]
            alike = math.nan if math.isnan(a.retain_accuracy) else _share(a.classes, reference)
            for name, reading in (
                ("membership", attack(-a.forget, -a.test)),
                ("likelihood", attack(logit_margin(a.forget) - usual_forget, logit_margin(a.test) - usual_test)),
                ("agreement", Reading(alike, resolution=0.5 / len(a.test))),
                ("forget-accuracy", Reading(a.forget_accuracy, resolution=0.5 / len(a.forget))),
                ("retain-accuracy", Reading(a.retain_accuracy)),
                *a.told.items(),
            ):
                by_name.setdefault(name, {})[arm] = reading
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


def memorisation_accuracy(model: nn.Module, task: CausalTask, data: Data) -> Reading:
    """Return how much of its texts a causal language model continues word by word, in [0, 1].

    For a text x_1 ... x_T, the share of t = 2 ... T at which x_t is the likeliest token after x_1 ... x_(t-1); averaged
    over texts. Tokens are those of the input, without what the task asks behind them.

    Source: Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models" (arXiv 2210.01504),
    equation 3. Texts of one token have no such t and are left out.
    """
    shares: list[Tensor] = []
    with torch.no_grad():
        for batch in data.chunks(64):
            tokens, length = batch.inputs["tokens"], batch.inputs["length"]
            likeliest = task.logits(model, batch).argmax(dim=1)[:, : int(length.max()) - 1]
            following = tokens[:, 1 : likeliest.shape[1] + 1]
            asked = torch.arange(likeliest.shape[1], device=tokens.device) < length[:, None] - 1
            right = ((likeliest == following) & asked).sum(dim=1) / (length - 1)
            shares.append(right[length > 1])
    share = torch.cat(shares)
    return Reading(float(share.mean()) if len(share) else math.nan)


def extraction_likelihood(model: nn.Module, task: CausalTask, data: Data, n: int = 10) -> Reading:
    """Return how much of its texts a causal language model gives away when it is shown their beginnings, in [0, 1].

    For a text x of T tokens and every p = 1 ... T - n, the model continues x_1 ... x_p greedily to T tokens; of the
    n-grams of the continuation, each as often as it occurs, the share that is found in x_(p+1) ... x_T; averaged over
    p, then over texts. Costs about T^2 / 2 passes for each text: meant for a few texts.

    Args:
        model: In eval mode.
        task: A causal one.
        data: The texts.
        n: Tokens of an n-gram, at least 1.

    Source: Jang et al. (arXiv 2210.01504), equations 1 and 2. Texts of n tokens and less are left out.

    Raises:
        ValueError: ``n`` is out of range.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    likelihoods = []
    long = (data.inputs["length"] > n).nonzero().squeeze(1)
    for texts in data.subset(long).chunks(TEXTS_AT_ONCE):
        totals = texts.inputs["length"].tolist()
        shown = [(text, p) for text, total in enumerate(totals) for p in range(1, total - n + 1)]
        told = _continued(model, task, texts, shown)
        shares: list[list[float]] = [[] for _ in totals]
        for (text, p), row in zip(shown, told, strict=True):
            truth = texts.inputs["tokens"][text, : totals[text]].tolist()
            true, told_here = set(_grams(truth[p:], n)), _grams(row[p : totals[text]], n)
            shares[text].append(sum(gram in true for gram in told_here) / len(told_here))
        likelihoods += [sum(each) / len(each) for each in shares]
    return Reading(sum(likelihoods) / len(likelihoods) if likelihoods else math.nan)


def _continued(
    model: nn.Module, task: CausalTask, texts: Batch, shown: Sequence[tuple[int, int]]
) -> list[list[int]]:  # fmt: skip
    """Return texts that a model continues greedily to their length.

    ``shown`` has the number of a text and how many of its tokens are shown, at least 1, for every continuation.
    """
    of, begun = torch.tensor(shown, device=texts.labels.device).unbind(dim=1)
    rows = texts.inputs["tokens"][of]
    total = texts.inputs["length"][of]
    for length in range(1, int(total.max())):
        # All continuations of all texts that have come this far get their next token in one pass.
        now = ((begun <= length) & (length < total)).nonzero().squeeze(1)
        inputs = {name: each[of[now]] for name, each in texts.inputs.items()}
        inputs |= {"tokens": rows[now, :length], "length": torch.full_like(now, length)}
        with torch.no_grad():
            scores = task.following(model, Batch(inputs, texts.labels[of[now]], now))
        rows[now, length] = scores.argmax(dim=1)
    continued: list[list[int]] = rows.tolist()
    return continued


def _grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
