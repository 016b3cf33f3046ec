"""Canaries in a drill: what one model still knows of coins that decided on labels of its source.

The audits ask, over seeds, how much of an effect is left. Canaries ask whether *one* model knows anything at all that
it can only know from the source. They are rows of the source. A fair coin decides whether a row gets a wrong label.
A model that never saw the source cannot know the coins; so whatever is guessed better than by chance is left of it.

A canary is guessed by the log-odds of its wrong label, less those of a retrained model: this takes away how plausible
the label is anyway. The retrained model knows no coin, so the guesses of coins that a model does not know are still
right with probability 1/2, each independently of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from harness import registry
from harness.api import UnlearningError
from harness.calling import calling
from harness.canaries.judgement import Judgement
from harness.cells import Cell, Registered, Trial
from harness.store.artefacts import patiently
from harness.studies.controls import ORACLE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.store.artefacts import Artefact
    from harness.trials.lab import Lab

#: Canaries in a source that has as many rows: with more, each of them is remembered less.
CANARIES = 200
#: Seed of the model; what is retrained for it serves the audits, too.
SEED = 0
ALPHA, DELTA = 0.05, 1e-5
#: Error rate of the control: a model that cannot know the coins, and seems to, is a sign of a fault and not of chance.
ALPHA_CONTROL = 0.001


class Count(NamedTuple):
    """How many models are trained and unlearned."""

    trainings: int
    unlearnings: int


def trials(method: Registered, task: Registered, source: Registered) -> tuple[Trial, Trial]:
    """Return the trial of the method, and that of retraining, whose U is the control."""
    cells = [Cell(each, task, source) for each in (method, registry.resolve("unlearner", ORACLE))]
    return Trial(cells[0], SEED), Trial(cells[1], SEED)


def lacking(method: Registered, task: Registered, source: Registered, lab: Lab, audited: Iterable[Trial] = ()) -> Count:
    """Count what canaries need that neither is stored nor made by the audits.

    Args:
        method: The removal.
        task: The pipeline.
        source: The poison `source`, with canaries.
        lab: Where.
        audited: Trials of the audits.
    """
    soon = {key for trial in audited for key in lab.missing(trial).values()}
    own, second = trials(method, task, source)
    kinds = {key: arm != "U" for arm, key in lab.missing(own).items()}
    kinds |= dict.fromkeys(lab.missing(second).values(), True)  # its U is a training, too
    needed = [training for key, training in kinds.items() if key not in soon]
    return Count(sum(needed), len(needed) - sum(needed))


def recall(method: Registered, task: Registered, source: Registered, lab: Lab) -> dict[str, Judgement]:
    """Return what canaries show of the model that was trained with them, of what the method made of it, and of R'.

    Args:
        method: The removal.
        task: The pipeline.
        source: The poison `source`, with canaries.
        lab: Where; what it has stored is not made again.

    Returns:
        A judgement of each of ``"P"``, ``"U"`` and ``"R'"``, a second retrained model.

    Raises:
        UnlearningError: A model diverged.
        Exception: Whatever the method raised.
    """
    own, second = trials(method, task, source)
    models = patiently(lambda: lab.models(own))
    again = patiently(lambda: lab.models(second))["U"]
    secrets = lab.planted(own).secrets
    rows = lab.planted(own).forget[secrets["places"]]

    def odds(model: Artefact) -> Tensor:
        """Return the log-odds of the wrong labels, float64, shape (canaries,)."""
        import torch

        net, train = lab.model(task, model), lab.split(task).train.subset(rows)
        with torch.no_grad(), calling(f"the task {task.id!r}"):
            scores = torch.cat([task.value.logits(net, batch) for batch in train.chunks()]).double().cpu()
        if not bool(scores.isfinite().all()):
            raise UnlearningError("a model diverged: its scores are not finite")
        shares = scores.log_softmax(1).gather(1, secrets["wrong"][:, None]).squeeze(1)
        # log(1 - p) of shares that are 1 but for rounding
        return shares - torch.log(-torch.expm1(shares.clamp(max=-1e-12)))

    base = odds(models["R"])
    found = {}
    for name, model, alpha in (("P", models["P"], ALPHA), ("U", models["U"], ALPHA), ("R'", again, ALPHA_CONTROL)):
        order = (odds(model) - base).argsort(descending=True, stable=True)
        found[name] = Judgement.of([bool(coin) for coin in secrets["coins"][order]], alpha, DELTA)
    return found
