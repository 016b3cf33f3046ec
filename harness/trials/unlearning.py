"""How U is made: what a method is handed, what is kept of what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.api import ContractError, declares
from harness.calling import calling
from harness.cells import Registered, Trial
from harness.conventions import has_own_loop
from harness.guards.guard import guarded
from harness.isolated import method as isolation
from harness.isolated.method import Measured
from harness.isolated.process import Limits
from harness.trials.bench import Bench
from harness.trials.cache import Cache
from harness.trials.planting import Planting

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.training.loop import Fitting, Trained
    from harness.training.meter import Meter

#: Batches whose operations are averaged where they differ in length.
SAMPLED = 8


@dataclass
class _Asked:
    """What a process remembers of a method: its first trial, what came of it, and how many others followed."""

    first: Trial
    digest: str
    others: int = 0


class Unlearning:
    """Has methods make U.

    Args:
        bench: Where.
        planting: Plants the poisons.
    """

    def __init__(self, bench: Bench, planting: Planting) -> None:
        self._bench = bench
        self._planting = planting
        self._flops: Cache[Registered, float] = Cache(16)
        self._called: set[str] = set()
        self._asked: dict[tuple[Registered, float], _Asked] = {}  # by method and budget

    def make(
        self,
        trial: Trial,
        poisoned: Mapping[str, Tensor],
        history: Mapping[int, Mapping[str, Tensor]],
        seconds: float,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Hand P and the request to the unlearner; say what it cost beside what it returned.

        Args:
            trial: The trial.
            poisoned: State dict of P, empty for a method that works from scratch.
            history: The checkpoints of P that the method declares to want, by epoch.
            seconds: The time that the method has.

        Raises:
            ContractError: It kept something outside of what is stored, or what `harness.guards` notices.
            Exception: Whatever the unlearner raised.
        """
        from harness.training.loop import is_finite
        from harness.training.seeds import derive
        from harness.training.unlearning import handed_over, unlearn

        task: Any = trial.cell.task.value
        method = trial.cell.unlearner
        points, train = self._planting.points(trial), self._bench.split(trial.cell.task).train
        retain, forget = handed_over(train, points.planted, points.known, points.left)
        per_example = self.flops_per_example(trial.cell.task)  # before: it sets up what torch sets up once
        given: dict[str, Any] = {
            "budget": self._bench.budget * task.epochs, "seed": derive("unlearning", trial.seed), "history": history,
        }  # fmt: skip
        longer = f" on seed {trial.seed}; if it needs longer, give it more with --audit-timeout=SECONDS"
        model: nn.Module
        meter: Meter | Measured
        if method.isolated:
            limits = Limits(seconds, longer=longer)
            model, meter = isolation.unlearn(method, trial.cell.task, poisoned, retain, forget, limits=limits, **given)
        else:
            files = self._bench.store.files.scratch
            model, meter = unlearn(
                method, task, poisoned, retain, forget, **given, seconds=seconds,
                closed=tuple(str(files / part) for part in ("records", "blobs")),
                longer=longer,
            )  # fmt: skip
            self.check(trial, model, f"the unlearner {method.id!r}", "returned")
        counted = (meter.examples, meter.steps, meter.flops) if not has_own_loop(task) else (0, 0, 0)
        info = {
            "examples": counted[0], "steps": counted[1], "seconds": meter.seconds,
            "flops": counted[2], "flops_per_example": 0 if declares(method.value, "control") else per_example,
            "cpu_seconds": meter.cpu_seconds,
            # In a process of its own every call is the first, and what that takes is counted against it.
            "first_call": not method.isolated and method.id not in self._called,
        }  # fmt: skip
        self._called.add(method.id)
        if history:
            info["history_bytes"] = sum(t.numel() * t.element_size() for s in history.values() for t in s.values())
        return {**info, "finite": is_finite(model)}, model.state_dict()

    def make_all(self, trials: Sequence[Trial]) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
        """As `make`, side by side, by a control that is one training from scratch.

        Args:
            trials: At least one; their unlearners and their tasks are one.
        """
        from harness.training.loop import finish_all
        from harness.training.seeds import derive
        from harness.training.unlearning import begin, handed_over

        method, task = trials[0].cell.unlearner, trials[0].cell.task
        budget, handed = self._bench.budget * task.value.epochs, []
        for trial in trials:
            points, train = self._planting.points(trial), self._bench.split(task).train
            given = handed_over(train, points.planted, points.known, points.left)
            handed.append((*given, derive("unlearning", trial.seed)))
        with guarded(f"the unlearner {method.id!r}"), self.timed(task) as costs:
            fittings = [
                begin(method, task.value, retain, forget, budget=budget, seed=seed) for retain, forget, seed in handed
            ]
            finish_all(fittings)
        nothing = {"flops": 0, "flops_per_example": 0, "first_call": False}  # what a control costs is no question
        return [({**cost, **nothing}, tensors) for cost, tensors in costs(fittings)]

    @contextmanager
    def timed(
        self, task: Registered
    ) -> Iterator[Callable[[Sequence[Fitting | Trained]], list[tuple[dict[str, Any], Any]]]]:
        """Time trainings that run side by side meanwhile.

        Yields:
            A function that returns, once they have ended, what each cost and its tensors.
        """
        from harness.training.clock import now, worked
        from harness.training.loop import is_finite

        on_gpu = self._bench.kind == "cuda"

        def costs(fittings: Sequence[Fitting | Trained]) -> list[tuple[dict[str, Any], Any]]:
            steps = sum(fitting.steps for fitting in fittings)
            found = []
            for fitting in fittings:
                own = fitting.steps
                part = own / steps if steps else 1 / len(fittings)  # a task's own loop counts no steps
                # On a GPU, methods are compared with unrecorded steps: most methods of other people have no others.
                work = own * self._bench.pace(task).unrecorded if on_gpu and steps else spent * part
                info: dict[str, Any] = {"examples": fitting.examples, "steps": own, "seconds": seconds * part}
                found.append(
                    ({**info, "cpu_seconds": work, "finite": is_finite(fitting.model)}, fitting.model.state_dict())
                )
            return found

        started, began = worked(on_gpu), now()
        yield costs
        spent, seconds = worked(on_gpu) - started, now() - began

    def check(self, trial: Trial, model: nn.Module, who: str, did: str) -> None:
        """Refuse a model that is not what its state dict says.

        Args:
            trial: The trial.
            model: The model.
            who: Whose it is, in words.
            did: What they did to have it: a verb.

        Raises:
            ContractError: It is not.
        """
        import torch

        from harness.training.roundtrip import DIFFERS, EXAMPLES, survives

        test = self._bench.split(trial.cell.task).test
        batch = test.batch(torch.arange(min(EXAMPLES, len(test))))
        with calling(who):
            kept = survives(trial.cell.task.value, model, batch)
        if not kept:
            raise ContractError(f"{who} {did} {DIFFERS}", "state-dict")

    def asked_before(self, trial: Trial, tensors: Mapping[str, Tensor]) -> Trial | None:
        """Note what a method returned, and return the first trial that this process made with it, from time to time.

        That is after 1, 4, 16, ... other trials. Not asked again are methods that do not promise to repeat
        themselves, our own controls, methods in processes of their own, and methods on a GPU, where sums differ.
        """
        from harness.training.data import digest

        method = trial.cell.unlearner
        ours = declares(method.value, "control") and method.distribution == "pytest-unlearning"
        exempt = ours or method.isolated or not declares(method.value, "repeatable")
        if exempt or self._bench.kind != "cpu":
            return None
        place = method, self._bench.budget
        if place not in self._asked:
            self._asked[place] = _Asked(trial, digest(tensors))
            return None
        asked = self._asked[place]
        asked.others += 1
        again = asked.others & (asked.others - 1) == 0 and asked.others.bit_length() % 2 == 1
        return asked.first if again and asked.first != trial else None

    def compare(self, first: Trial, tensors: Mapping[str, Tensor], after: Trial) -> None:
        """Refuse a method that answers its first request otherwise after it was asked others.

        Raises:
            ContractError: It does.
        """
        from harness.training.data import digest

        method = first.cell.unlearner
        if digest(tensors) != self._asked[method, self._bench.budget].digest:
            raise ContractError(
                f"the unlearner {method.id!r} returned other weights for seed {first.seed} after it was asked for seed "
                f"{after.seed}; it must keep nothing from one call to the next, or declare repeatable = False",
                "repeatable",
            )

    def flops_per_example(self, task: Registered) -> float:
        """Return the floating-point operations of one example in a step of the recipe; counted once in a process."""
        return self._flops.get(task, lambda: self._count(task))

    def _count(self, task: Registered) -> float:
        import torch

        from harness.training.isolation import isolated_rng
        from harness.training.loop import fit
        from harness.training.meter import Meter

        recipe: Any = task.value
        if has_own_loop(recipe):  # what it computes is its own affair
            return 0.0
        batches = list(self._bench.split(task).train.batches(recipe.batch_size, 1, torch.Generator().manual_seed(0)))
        # Texts differ in length from batch to batch.
        batches = batches[:: max(1, len(batches) // SAMPLED)] if "length" in batches[0].inputs else batches[:1]
        with isolated_rng(0):
            model = recipe.new_model().to(self._bench.device)
            with Meter(model) as meter:
                fit(recipe, model, batches)
        return meter.flops / sum(map(len, batches))
