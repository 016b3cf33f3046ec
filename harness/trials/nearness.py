"""How near a model is to R: if it is much nearer than P and than a second retrained model, it is called a copy.

P, R and the U that is made of P share initialisation and order, so that U may rightly be nearer to R than a model that
was retrained from another seed. `NEAR` leaves room for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.data import Data

#: Test points that both models are asked about.
POINTS = 256
#: Share of the distance from R to P, or to the nearest second retrained model if that is smaller, below which a model
#: is called a copy, by measure.
NEAR: Mapping[str, float] = {"weights": 0.02, "logits": 0.15}


def nearness(task: Any, model: nn.Module, retrained: nn.Module, test: Data) -> dict[str, float]:
    """Return how far a model is from a retrained one.

    Args:
        task: Their task.
        model: A model in eval mode, on the device of the data.
        retrained: The retrained one, too.
        test: Test points, of which the first `POINTS` are used.

    Returns:
        ``"weights"``: L2 distance of the floating-point parameters, as a share of the retrained model's norm.
        ``"logits"``: root mean square of the difference of the scores, each example's centred, as a share of that of
        the retrained model's scores. Not a number where a model diverged.
    """
    import torch

    apart = norm = 0.0
    parameters = dict(retrained.named_parameters())
    with torch.no_grad():
        for name, own in model.named_parameters():
            if own.is_floating_point():
                apart += float((own - parameters[name]).double().square().sum())
                norm += float(parameters[name].double().square().sum())
        few = test.subset(torch.arange(min(POINTS, len(test))))
        scores = [_scores(task, each, few) for each in (model, retrained)]
    by = {"weights": math.sqrt(apart / norm) if norm else math.nan}
    size = float(scores[1].square().sum())
    by["logits"] = math.sqrt(float((scores[0] - scores[1]).square().sum()) / size) if size else math.nan
    return by


def _scores(task: Any, model: nn.Module, points: Data) -> Tensor:
    import torch

    # Of a causal model, the scores of what follows each text: those of all tokens would fill the memory.
    ask = task.following if getattr(task, "causal", False) else task.logits
    scores = torch.cat([ask(model, batch).double() for batch in points.chunks(task.batch_size)])
    scores = scores.reshape(len(scores), -1)  # a task with its own `predict` may give one number per point
    return scores - scores.mean(dim=1, keepdim=True) if scores.shape[1] > 1 else scores


def nearest(
    measure: str, of: Mapping[str, Mapping[str, float]], oracle: Sequence[Mapping[str, Mapping[str, float]]]
) -> float:
    """Return how near to R a model comes that was not copied from it: P of the same seed, or a second R of any.

    Wide networks hardly move: P is then nearer to R than another R is.
    """
    second = [each["U"][measure] for each in oracle if math.isfinite(each["U"][measure])]
    return min([of["P"][measure], *second])


def copied(
    who: str,
    seeds: Sequence[int],
    own: Sequence[Mapping[str, Mapping[str, float]]],
    oracle: Sequence[Mapping[str, Mapping[str, float]]],
) -> str:
    """Return a sentence if a model is a copy of the retrained one on any seed, else ``""``.

    Args:
        who: The method, in words.
        seeds: The seeds.
        own: How near the method's models are to the retrained ones, and P, by seed, arm and measure.
        oracle: The same of the oracle, whose U is a second retrained model.
    """
    for measure, share in NEAR.items():
        for seed, of in zip(seeds, own, strict=True):
            others = nearest(measure, of, oracle)
            if of["U"][measure] < share * others:
                numbers = f"distance in {measure} {of['U'][measure]:.2g}, of other models {others:.2g} or more"
                return (
                    f"{who} returned a model that is too close to the retrained model of seed {seed} not to be a copy "
                    f"({numbers}); a method must not use the retrained model"
                )
    return ""
