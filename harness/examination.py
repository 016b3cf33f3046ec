"""The checks of the contract: an unlearner is run on small generated problems, and watched.

A problem is a little network trained for a few passes on a few dozen images, some of them mislabelled; runs take
milliseconds. What must hold on every request is tried on the edge cases of `EDGES` and on requests that hypothesis
draws. What some sound method may not show on some request (that the forget set matters, say) is held against it only
where no request shows it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.optim import optimizer as optimizer_hooks

from harness import training
from harness.api import ContractError, Registered, UnlearningError, declares
from harness.contract import BrokenContract, Clause, NotExamined
from harness.data import Data, digest
from harness.unlearning import unlearn, wanted_epochs

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from harness.api import Batch

CLASSES = 3
PASSES = 4  # of the little networks' own training
GENERATED = 12  # requests that hypothesis draws, beside the edge cases
#: Two results differ if they are further apart than this share of how far the method moved the weights, and so many
#: times further than two results of the same request.
DIFFERENT, CLEARLY = 1e-4, 10
#: A method that calls models more often than so many times per example that it may use is stopped: a call costs a third
#: of an example at least, so that it is over its budget, and it may never end.
PATIENCE = 5


@dataclass(frozen=True)
class Case:
    """A request, as it is generated.

    Attributes:
        retain, forget: Number of points to keep and to remove.
        batch_size: Of the recipe.
        seed: Of everything that is random.
        whole_class: Whether the forget set is all there is of one class.
    """

    retain: int = 40
    forget: int = 8
    batch_size: int = 16
    seed: int = 0
    whole_class: bool = False

    def __str__(self) -> str:
        of = ", a whole class" if self.whole_class else ""
        return (
            f"{self.retain} points to keep, {self.forget} to forget{of}, batches of {self.batch_size}, seed {self.seed}"
        )


#: What must work beside the ordinary, by line of the contract.
EDGES = {
    "ordinary-request": Case(),
    "one-point": Case(retain=30, forget=1, seed=1),
    "whole-class": Case(retain=30, forget=15, seed=2, whole_class=True),
    "large-batch": Case(retain=20, forget=5, batch_size=256, seed=3),
}
#: Requests on which a sound method shows what it does; the last one as large as methods with batches of their own need.
ORDINARY = (
    Case(),
    Case(seed=1),
    Case(retain=60, forget=4, batch_size=4, seed=2),
    Case(retain=640, forget=20, batch_size=64, seed=3),
)


class Net(nn.Module):
    """Two convolutions with batch normalisation, and a linear head."""

    def __init__(self) -> None:
        super().__init__()

        def convolution(channels: int, out: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())

        self.first, self.second = convolution(1, 6), convolution(6, 8)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.second(self.first(images)))
        return scores


@dataclass
class LittleRecipe:
    """The recipe of the little networks."""

    batch_size: int
    epochs: int

    def new_model(self) -> nn.Module:
        return Net()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        scores: Tensor = model(batch.inputs["image"])
        return scores

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(logits, batch.labels)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> Optimizer:
        return torch.optim.SGD(model.parameters(), 0.05 if lr is None else lr, momentum=0.9, weight_decay=5e-4)

    def schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return list(model.children())


@dataclass(frozen=True)
class _Problem:
    """The data of a case, the model trained on all of them, and its checkpoints by pass."""

    retain: Data
    forget: Data
    checkpoints: tuple[dict[str, Tensor], ...]


@dataclass
class _Run:
    """What was seen of one run.

    Attributes:
        error: What was raised, by the method or in checking what it returned.
        before: The state that the method was given; of a method from scratch, the poisoned one that it did not get.
        model: What it returned.
        examples: Compute it used, in examples forward and backward.
        changed: The parts of the request that it changed.
        hooks: Hooks it left on torch itself.
        called: Every model that was called, by identity.
    """

    error: Exception | None = None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    model: nn.Module | None = None
    examples: float = 0.0
    changed: list[str] = field(default_factory=list)
    hooks: int = 0
    called: dict[int, nn.Module] = field(default_factory=dict)

    @property
    def move(self) -> Tensor:
        """How far each parameter of the returned model is from the poisoned one's, flat."""
        assert self.model is not None
        return torch.cat([(p.detach() - self.before[name]).flatten() for name, p in self.model.named_parameters()])

    @functools.cached_property
    def digest(self) -> str:
        """Of the weights and buffers of the returned model."""
        assert self.model is not None
        return digest(self.model.state_dict())

    def distance(self, other: _Run) -> float:
        """Return how far two results are apart, as a share of how far the one that moved further moved.

        Returns:
            The share; not a number where neither moved, or a weight is none.
        """
        return float((self.move - other.move).norm() / max(self.move.norm(), other.move.norm()))


def _points(case: Case) -> tuple[Data, Data]:
    """Return the points to keep and those to remove."""
    generator = torch.Generator().manual_seed(case.seed)
    n = case.retain + case.forget
    truth = torch.arange(n) % CLASSES
    if case.whole_class:  # the last class is what is forgotten
        truth = torch.cat([torch.arange(case.retain) % (CLASSES - 1), torch.full((case.forget,), CLASSES - 1)])
    images = torch.randn(CLASSES, 1, 8, 8, generator=generator)[truth] + 0.5 * torch.randn(
        n, 1, 8, 8, generator=generator
    )
    labels = truth.clone()
    if not case.whole_class:
        labels[case.retain :] = (labels[case.retain :] + 1) % CLASSES
    return _parted(Data({"image": images}, labels), case.retain)


def _parted(data: Data, first: int) -> tuple[Data, Data]:
    """Return copies of the first so many points and of the rest."""
    index = torch.arange(len(data))
    return data.subset(index[:first]), data.subset(index[first:])


def _joined(first: Data, second: Data) -> Data:
    inputs = {name: torch.cat([tensor, second.inputs[name]]) for name, tensor in first.inputs.items()}
    return Data(inputs, torch.cat([first.labels, second.labels]))


@functools.lru_cache(maxsize=512)
def _problem(case: Case) -> _Problem:
    retain, forget = _points(case)
    checkpoints: list[dict[str, Tensor]] = []
    with training.isolated_rng(case.seed):
        recipe = LittleRecipe(case.batch_size, PASSES)
        model = recipe.new_model()

        def keep(model: nn.Module, *_: int) -> None:
            checkpoints.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

        keep(model)
        order = torch.Generator().manual_seed(case.seed)
        training.fit(recipe, model, _joined(retain, forget).batches(case.batch_size, PASSES, order), keep)
    return _Problem(retain, forget, tuple(checkpoints))


@functools.cache
def generated(count: int) -> tuple[Case, ...]:
    """Return requests that hypothesis draws; once in a process, so that every line is tried on the same ones."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    drawn: list[Case] = []

    def keep(case: Case) -> None:
        drawn.append(case)

    cases = st.builds(
        Case, retain=st.integers(20, 60), forget=st.integers(1, 20), batch_size=st.sampled_from([4, 7, 16, 64]),
        seed=st.integers(4, 999),
    )  # fmt: skip
    settings(
        max_examples=count, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(cases)(keep))()  # fmt: skip
    return tuple(drawn)


class Examination:
    """The runs of one unlearner, each made once."""

    def __init__(self, method: Registered, budget: float, epochs: int) -> None:
        self.method = method
        self.budget = budget
        self.epochs = epochs
        self._runs: dict[tuple[Case, str], _Run] = {}
        self._never_called = _copy(method)

    def run(self, case: Case, variant: str = "") -> _Run:
        """Return what was seen of a run.

        Args:
            case: The request.
            variant: ``"again"`` for the same once more, by a copy of the method that was never called; ``"moved"``
                where other points are to be forgotten and ``"replaced"`` where other points stand in the forget set,
                for the same model.
        """
        key = (case, variant)
        if key not in self._runs:
            run = _Run(before=_problem(case).checkpoints[-1])
            with _watching(run, f"the unlearner {self.method.id!r}", PATIENCE * max(1, self.budget) * case.retain):
                try:
                    self._unlearn(run, case, variant)
                except Exception as error:  # whatever it is, it is what the examination is for
                    run.error = error
            self._runs[key] = run
        return self._runs[key]

    def good(self, case: Case, variant: str = "") -> _Run | None:
        """Return a run that returned a model, or None: what it raised is another line's business."""
        run = self.run(case, variant)
        return None if run.error is not None else run

    def _unlearn(self, run: _Run, case: Case, variant: str) -> None:
        problem = _problem(case)
        both = _joined(problem.retain, problem.forget)
        retain, forget = _parted(both, case.retain)  # copies: they may be written to
        if variant == "moved":
            forget, retain = _parted(both, case.forget)
        if variant == "replaced":
            forget = Data(_points(replace(case, seed=case.seed + 1000))[1].inputs, (forget.labels + 1) % CLASSES)
        history = {epoch: self._checkpoint(problem, epoch) for epoch in wanted_epochs(self.method, self.epochs)}
        parts: dict[str, Callable[[], Mapping[str, Tensor]]] = {
            "retained inputs": lambda: retain.inputs,
            "retained labels": lambda: {"": retain.labels},
            "forget set's inputs": lambda: forget.inputs,
            "forget set's labels": lambda: {"": forget.labels},
            "history": lambda: {f"{e}.{name}": t for e, state in history.items() for name, t in state.items()},
        }
        before = {name: digest(part()) for name, part in parts.items()}
        run.model, meter = unlearn(
            _copy(self._never_called) if variant == "again" else self.method,
            LittleRecipe(case.batch_size, self.epochs), problem.checkpoints[-1], retain, forget,
            budget=self.budget, seed=case.seed, history=history,
        )  # fmt: skip
        run.examples = meter.examples
        run.changed = [name for name, part in parts.items() if digest(part()) != before[name]]

    def _checkpoint(self, problem: _Problem, epoch: int) -> dict[str, Tensor]:
        kept = problem.checkpoints[round(PASSES * epoch / self.epochs)]
        return {name: tensor.clone() for name, tensor in kept.items()}


def _copy(method: Registered) -> Registered:
    try:
        return replace(method, value=copy.deepcopy(method.value))
    except Exception:  # it holds what cannot be copied
        return method


@contextmanager
def _watching(run: _Run, who: str, most: float) -> Iterator[None]:
    """Note which models are called and which hooks are left on torch; take those away again.

    Args:
        run: Where it is noted.
        who: The method, in words.
        most: Calls of models after which it is stopped.
    """
    places: list[dict[int, Any]] = [
        getattr(where, name)
        for where in (global_hooks, optimizer_hooks)
        for name in vars(where)
        if name.startswith("_global_") and name.endswith("_hooks")
    ]
    calls = 0

    def note(module: nn.Module, _: Any) -> None:
        nonlocal calls
        if isinstance(module, Net):
            run.called[id(module)] = module
            calls += 1
        if calls > most:
            raise ContractError(
                f"{who} was stopped after {most:.0f} calls of models, more than its budget pays for; does it end?",
                "budget",
            )

    handle = global_hooks.register_module_forward_pre_hook(note)
    before = [set(place) for place in places]
    try:
        # A method that raises leaves its settings, and whoever comes next would run under them.
        with suppress(ContractError), training.same_settings(who):
            yield
    finally:
        for place, known in zip(places, before, strict=True):
            for key in set(place) - known:
                del place[key]
                run.hooks += 1
        handle.remove()


@functools.lru_cache(maxsize=64)
def _examination(method: Registered, budget: float, epochs: int) -> Examination:
    return Examination(method, budget, epochs)


def examine(clause: Clause) -> None:
    """Assert one line of the contract.

    Raises:
        BrokenContract: It does not hold.
        NotExamined: Nothing could be said, because the method raised or is for other inputs than images.
    """
    modality = declares(clause.method.value, "modality")
    if modality not in (None, "image"):
        raise NotExamined(f"it serves {modality} tasks alone, and the contract is examined on images")
    examination = _examination(clause.method, clause.budget, clause.epochs)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        CHECKS[clause.line](examination, clause.line)
    finally:
        torch.set_num_threads(threads)


def _serves(examination: Examination, line: str) -> None:
    """Check that an edge case is served, or refused in words; the ordinary one, and others like it, served."""
    ordinary = line == "ordinary-request"
    like_it = [case for case in generated(GENERATED) if case.forget > 1 and case.batch_size <= case.retain]
    for case in [EDGES[line], *(like_it if ordinary else [])]:
        error = examination.run(case).error
        if error is None or (isinstance(error, ContractError) and error.line):
            continue
        who = f"the unlearner {examination.method.id!r}"
        said = " ".join(str(error).split())
        if not isinstance(error, UnlearningError):
            raise BrokenContract(line, f"{who} raised {type(error).__name__}: {said[:200]}", str(case)) from error
        if case is EDGES["ordinary-request"]:
            raise BrokenContract(line, f"{who} refused an ordinary request: {said[:200]}", str(case)) from error
        if not said:
            raise BrokenContract(line, f"{who} refused without saying why", str(case)) from error


def _on_every_request(
    check: Callable[[Examination, Case, _Run], str | None],
) -> Callable[[Examination, str], None]:
    """Return a check that must say nothing against any request; it returns what is wrong, or None.

    What the harness itself refused under this line is wrong too.
    """

    def examine_all(examination: Examination, line: str) -> None:
        seen = 0
        for case in (*EDGES.values(), *generated(GENERATED)):
            run = examination.run(case)
            if isinstance(run.error, ContractError) and run.error.line == line:
                raise BrokenContract(line, str(run.error), str(case))
            if run.error is not None:
                continue
            seen += 1
            if wrong := check(examination, case, run):
                raise BrokenContract(line, f"the unlearner {examination.method.id!r} {wrong}", str(case))
        if not seen:
            raise NotExamined("it returned no model on any request; the other lines say why")

    return examine_all


def _on_some_request(
    check: Callable[[Examination, Case, _Run], bool | None], wrong: str
) -> Callable[[Examination, str], None]:
    """Return a check that one ordinary request must satisfy; it returns None where nothing can be said."""

    def examine_some(examination: Examination, line: str) -> None:
        seen = False
        for case in ORDINARY:
            run = examination.good(case)
            answer = check(examination, case, run) if run is not None else None
            if answer:
                return
            seen = seen or answer is not None
        if not seen:
            raise NotExamined(
                "on no ordinary request did it return a model with other weights, finite ones, that it gives again "
                "under the same seed"
            )
        sentence = f"the unlearner {examination.method.id!r} {wrong}"
        raise BrokenContract(line, sentence, f"{ORDINARY[0]}, and {len(ORDINARY) - 1} others")

    return examine_some


def _nothing_more(_e: Examination, _c: Case, _r: _Run) -> None:
    """Leave it to what the harness refuses."""


def _finite(_e: Examination, _c: Case, run: _Run) -> str | None:
    assert run.model is not None
    odd = [name for name, t in run.model.state_dict().items() if t.is_floating_point() and not t.isfinite().all()]
    return f"returned weights that are not finite, first {odd[0]!r}" if odd else None


def _untouched(_e: Examination, _c: Case, run: _Run) -> str | None:
    return (
        f"changed the {' and the '.join(run.changed)} in place; it must copy what it changes" if run.changed else None
    )


def _flags(_e: Examination, _c: Case, run: _Run) -> str | None:
    assert run.model is not None
    frozen = [name for name, parameter in run.model.named_parameters() if not parameter.requires_grad]
    return f"returned parameters that no longer require gradients, first {frozen[0]!r}" if frozen else None


def _hooks(_e: Examination, _c: Case, run: _Run) -> str | None:
    assert run.model is not None
    if run.hooks:
        return "left hooks on torch itself, under which every later model would run; it must remove them"
    for name, module in run.model.named_modules():
        if any(held for attribute, held in vars(module).items() if attribute.endswith("_hooks")):
            return f"left hooks on {name or 'the model'!r}; it must remove them"
        if "forward" in vars(module):
            return f"left a forward of its own on {name or 'the model'!r}; what is audited is the weights alone"
    for name, parameter in run.model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"left hooks on {name!r}; it must remove them"
    return None


def _shares(_e: Examination, _c: Case, run: _Run) -> str | None:
    assert run.model is not None
    own = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    parts = {id(module) for module in run.model.modules()}
    if id(run.model) not in run.called:  # weights that were assigned to it in the end do no harm
        return None
    for other in run.called.values():
        if id(other) not in parts and any(p.untyped_storage().data_ptr() in own for p in other.parameters()):
            return "used a second model that shares weights with the one it returned; a copy must be copy.deepcopy's"
    return None


def _repeats(examination: Examination, case: Case, run: _Run) -> str | None:
    if not declares(examination.method.value, "repeatable"):
        return None
    again = examination.good(case, "again")
    if again is None:
        return "returned a model once and raised when asked again"
    if run.digest != again.digest:
        return (
            "gave other weights under the same seed; it must keep nothing from one call for the next, and draw from "
            "request.generator or torch's, numpy's or Python's own generators, which are seeded, or declare "
            "repeatable = False"
        )
    return None


def _within_budget(examination: Examination, case: Case, run: _Run) -> str | None:
    allowed = examination.budget * case.retain
    if run.examples <= allowed * (1 + 1e-6):
        return None
    return (
        f"used {run.examples:.0f} examples forward and backward where {allowed:.0f} are allowed "
        f"({examination.budget:g} passes over the retain set); see request.budget and request.affordable"
    )


def _changes(_e: Examination, _c: Case, run: _Run) -> bool:
    return bool((run.move != 0).any())


def _differs(examination: Examination, case: Case, run: _Run, variant: str) -> bool | None:
    """Say whether a variant of a request gives another result; None where nobody can tell."""
    other, again = examination.good(case, variant), examination.good(case, "again")
    if other is None or again is None:
        return None
    apart = run.distance(other)
    if apart <= DIFFERENT:
        return False
    return True if apart > CLEARLY * run.distance(again) else None


def _depends(examination: Examination, case: Case, run: _Run) -> bool | None:
    return _differs(examination, case, run, "moved")


def _reads(examination: Examination, case: Case, run: _Run) -> bool | None:
    return _differs(examination, case, run, "replaced")


def _is_blind(examination: Examination, case: Case, run: _Run) -> str | None:
    again, replaced = examination.good(case, "again"), examination.good(case, "replaced")
    if again is None or again.digest != run.digest:
        return None
    if replaced is None:
        return "returned a model, and raised when other points stood in the forget set"
    if replaced.digest != run.digest:
        return "declares reads_forget = False, and its result changes with what the forget set holds"
    return None


def _as_declared(examination: Examination, line: str) -> None:
    method = examination.method.value
    if declares(method, "from_scratch"):
        return  # it gets none to read
    if declares(method, "reads_forget"):
        _on_some_request(
            _reads,
            "gives the same result whatever the forget set holds; if that is meant, declare reads_forget = False; if "
            "not, check that a teacher is a copy (copy.deepcopy) and that the loss on the forget set is used",
        )(examination, line)
    else:
        _on_every_request(_is_blind)(examination, line)


CHECKS: dict[str, Callable[[Examination, str], None]] = {
    **dict.fromkeys(EDGES, _serves),
    "same-architecture": _on_every_request(_nothing_more),
    "settings": _on_every_request(_nothing_more),
    "finite-weights": _on_every_request(_finite),
    "changes-weights": _on_some_request(
        _changes,
        "returned the parameters of the model as they came; check that an optimiser steps, and that it is this model's",
    ),
    "depends-on-split": _on_some_request(
        _depends, "gives the same result whichever points are to be forgotten: it does not use the request"
    ),
    "reads-forget": _as_declared,
    "data-untouched": _on_every_request(_untouched),
    "grad-flags": _on_every_request(_flags),
    "no-hooks": _on_every_request(_hooks),
    "no-shared-weights": _on_every_request(_shares),
    "repeatable": _on_every_request(_repeats),
    "budget": _on_every_request(_within_budget),
}
