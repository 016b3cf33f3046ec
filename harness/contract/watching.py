"""What is seen of an unlearner while it serves a request."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from harness.api import ContractError
from harness.calling import calling
from harness.cells import Registered
from harness.contract.grounds import Ground, LittleImages, OfTask
from harness.contract.requests import PASSES, Case, Problem, joined, parted
from harness.guards.clock import TimedOut
from harness.training.data import Data, digest
from harness.training.roundtrip import EXAMPLES, survives
from harness.training.unlearning import unlearn, wanted_epochs

if TYPE_CHECKING:
    from harness.api import Batch, Recipe
    from harness.trials.datasets import Datasets

#: A method that calls models more often than so many times per example that it may use is stopped: a call costs a third
#: of an example at least, so that it is over its budget, and it may never end.
PATIENCE = 5
#: Seconds for a request, of which each takes milliseconds.
SECONDS = 60.0


@dataclass
class Run:
    """What was seen of one run.

    Attributes:
        error: What was raised, by the method or in checking what it returned.
        before: The state that the method was given; of a method from scratch, the poisoned one that it did not get.
        model: What it returned.
        examples: Compute it used, in examples forward and backward.
        changed: The parts of the request that it changed.
        optimised: Whether it made gradients or stepped an optimiser: it then meant to change parameters.
        kept: Whether its state dict holds all that its answers depend on.
        called: Every model that was called, by identity.
        scores: How far the scores of a few points are from the poisoned model's, where results are compared by these.
    """

    error: Exception | None = None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    model: nn.Module | None = None
    examples: float = 0.0
    changed: list[str] = field(default_factory=list)
    optimised: bool = False
    kept: bool = True
    called: dict[int, nn.Module] = field(default_factory=dict)
    scores: Tensor | None = None

    @property
    def move(self) -> Tensor:
        """How far each parameter of the returned model, or each score, is from the poisoned one's, flat."""
        if self.scores is not None:
            return self.scores
        assert self.model is not None
        return torch.cat([(p.detach() - self.before[name]).flatten() for name, p in self.model.named_parameters()])

    @property
    def buffers_moved(self) -> bool:
        """Whether a buffer of numbers, such as a running mean, is another than it was."""
        assert self.model is not None
        buffers = {name: buffer for name, buffer in self.model.named_buffers() if buffer.is_floating_point()}
        return any(
            not torch.equal(buffer, self.before[name]) for name, buffer in buffers.items() if name in self.before
        )

    @functools.cached_property
    def digest(self) -> str:
        """Of the weights and buffers of the returned model."""
        assert self.model is not None
        return digest(self.model.state_dict())

    def distance(self, other: Run) -> float:
        """Return how far two results are apart, as a share of how far the one that moved further moved.

        Returns:
            The share; not a number where neither moved, or a weight is none.
        """
        return float((self.move - other.move).norm() / max(self.move.norm(), other.move.norm()))


class Examination:
    """The runs of one unlearner, each made once."""

    def __init__(self, method: Registered, budget: float, epochs: int, ground: Ground) -> None:
        self.method = method
        self.ground = ground
        self.budget = budget
        self.epochs = epochs
        self._runs: dict[tuple[Case, str], Run] = {}
        self._hangs: TimedOut | None = None
        self._never_called = copied(method)

    def run(self, case: Case, variant: str = "") -> Run:
        """Return what was seen of a run.

        Args:
            case: The request.
            variant: ``"again"`` for the same once more, by a copy of the method that was never called; ``"moved"``
                where other points are to be forgotten and ``"replaced"`` where other points stand in the forget set,
                for the same model.
        """
        key = (case, variant)
        if key not in self._runs:
            run = Run()
            who = f"the unlearner {self.method.id!r}"
            try:
                problem = self.ground.problem(case)
                run.before = problem.checkpoints[-1]
                if self._hangs is not None:  # it would again, on every request
                    raise self._hangs
                with watching(run, who, self.ground, PATIENCE * max(1, self.budget) * case.retain):
                    self._unlearn(run, case, variant)
                assert run.model is not None  # or it would have raised
                recipe = self.ground.recipe(case, self.epochs)
                batch = problem.retain.batch(torch.arange(min(EXAMPLES, case.retain)))
                with calling(who):  # its hooks may do anything
                    run.kept = survives(recipe, run.model, batch)
                    if not self.ground.weighed:
                        run.scores = _moved(recipe, run, batch)
            except Exception as error:  # whatever it is, it is what the examination is for
                run.error = error
                self._hangs = error if isinstance(error, TimedOut) else None
            self._runs[key] = run
        return self._runs[key]

    def good(self, case: Case, variant: str = "") -> Run | None:
        """Return a run that returned a model, or None: what it raised is another line's business."""
        run = self.run(case, variant)
        return None if run.error is not None else run

    def _unlearn(self, run: Run, case: Case, variant: str) -> None:
        problem = self.ground.problem(case)
        both = joined(problem.retain, problem.forget)
        retain, forget = parted(both, case.retain)  # copies: they may be written to
        if variant == "moved":
            forget, retain = parted(both, case.forget)
        if variant == "replaced":
            others = self.ground.points(replace(case, seed=case.seed + 1000))[1]
            forget = Data(others.inputs, (forget.labels + 1) % self.ground.classes)
        history = {epoch: self._checkpoint(problem, epoch) for epoch in wanted_epochs(self.method, self.epochs)}
        parts: dict[str, Callable[[], Mapping[str, Tensor]]] = {
            "retained inputs": lambda: retain.inputs,
            "retained labels": lambda: {"": retain.labels},
            "forget set's inputs": lambda: forget.inputs,
            "forget set's labels": lambda: {"": forget.labels},
            "history": lambda: {f"{e}.{name}": t for e, state in history.items() for name, t in state.items()},
        }
        before = {name: digest(part()) for name, part in parts.items()}
        recipe = self.ground.recipe(case, self.epochs)
        run.model, meter = unlearn(
            copied(self._never_called) if variant == "again" else self.method,
            recipe, problem.checkpoints[-1], retain, forget,
            budget=self.budget, seed=case.seed, history=history, seconds=SECONDS,
            operations=False,
        )  # fmt: skip
        run.examples = meter.examples
        run.optimised = meter.steps > 0 or any(p.grad is not None for p in run.model.parameters())
        run.changed = [name for name, part in parts.items() if digest(part()) != before[name]]

    def _checkpoint(self, problem: Problem, epoch: int) -> dict[str, Tensor]:
        kept = problem.checkpoints[round(PASSES * epoch / self.epochs)]
        return {name: tensor.clone() for name, tensor in kept.items()}


def copied(method: Registered) -> Registered:
    try:
        return replace(method, value=copy.deepcopy(method.value))
    except Exception:  # it holds what cannot be copied
        return method


@contextmanager
def watching(run: Run, who: str, ground: Ground, most: float) -> Iterator[None]:
    """Note which models are called.

    Args:
        run: Where it is noted.
        who: The method, in words.
        ground: Whose models they are.
        most: Calls of models after which it is stopped.
    """
    calls = 0

    def note(module: nn.Module, _: Any) -> None:
        nonlocal calls
        if isinstance(module, ground.network):
            run.called[id(module)] = module
            calls += 1
        if ground.counted and calls > most:
            raise ContractError(
                f"{who} was stopped after {most:.0f} calls of models, more than its budget pays for; does it end?",
                "budget",
            )

    handle = global_hooks.register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


LITTLE = LittleImages()


@functools.lru_cache(maxsize=64)
def examination_of(
    method: Registered, budget: float, epochs: int, task: Registered | None, datasets: Datasets | None = None
) -> Examination:
    return Examination(method, budget, epochs, LITTLE if task is None else OfTask(task, datasets))


def _moved(recipe: Recipe, run: Run, batch: Batch) -> Tensor:
    """Return how far the scores of a batch are from those of the model that the method was given, flat."""
    assert run.model is not None
    given = recipe.new_model()
    given.load_state_dict(run.before)
    with torch.no_grad():
        scores = [recipe.logits(each.eval(), batch) for each in (run.model, given)]
    return (scores[0] - scores[1]).flatten()
