"""The checks of the contract: an unlearner is run on small generated problems, and watched.

A problem is a little network trained for a few passes on a few dozen images, some of them mislabelled; runs take
milliseconds. What must hold on every request is tried on the edge cases of `EDGES` and on requests that hypothesis
draws, always the same ones. What some sound method may not show on some request (that the forget set matters, say) is
held against it only where no request shows it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from harness.unlearning import unlearn

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from harness.api import Batch

CLASSES = 3
PASSES = 4  # of the little networks' own training
GENERATED = 12  # requests that hypothesis draws, beside the edge cases
#: Two results differ if they are further apart than this share of how far the method moved the weights.
DIFFERENT = 1e-4


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
#: Requests on which a sound method shows what it does.
ORDINARY = tuple(Case(seed=seed) for seed in range(4))


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
        called: Every model that was called.
    """

    error: Exception | None = None
    before: Mapping[str, Tensor] = field(default_factory=dict)
    model: nn.Module | None = None
    examples: float = 0.0
    changed: list[str] = field(default_factory=list)
    hooks: int = 0
    called: list[nn.Module] = field(default_factory=list)

    @property
    def parameters(self) -> Tensor:
        """All parameters of the returned model, flat."""
        assert self.model is not None
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def distance(self, other: _Run) -> float:
        """Return how far two results are apart, as a share of how far the first moved from the poisoned model."""
        assert self.model is not None
        start = torch.cat([self.before[name].flatten() for name, _ in self.model.named_parameters()])
        moved = float((self.parameters - start).norm())
        return float((self.parameters - other.parameters).norm()) / moved if moved else 0.0


@functools.lru_cache(maxsize=256)
def _problem(case: Case) -> _Problem:
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
    data = Data({"image": images}, labels)
    checkpoints: list[dict[str, Tensor]] = []
    with training.isolated_rng(case.seed):
        recipe = LittleRecipe(case.batch_size, PASSES)
        model = recipe.new_model()

        def keep(model: nn.Module, *_: int) -> None:
            checkpoints.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

        keep(model)
        training.fit(recipe, model, data.batches(case.batch_size, PASSES, generator), keep)
    index = torch.arange(n)
    return _Problem(data.subset(index[: case.retain]), data.subset(index[case.retain :]), tuple(checkpoints))


class Examination:
    """The runs of one unlearner, each made once."""

    def __init__(self, method: Registered, budget: float, epochs: int) -> None:
        self.method = method
        self.budget = budget
        self.epochs = epochs
        self._runs: dict[tuple[Case, str], _Run] = {}

    def run(self, case: Case, variant: str = "") -> _Run:
        """Return what was seen of a run.

        Args:
            case: The request.
            variant: ``"again"`` for the same once more; ``"moved"`` where other points are to be forgotten and
                ``"replaced"`` where other points stand in the forget set, for the same model.
        """
        key = (case, variant)
        if key not in self._runs:
            self._runs[key] = self._watch(case, variant)
        return self._runs[key]

    def good(self, case: Case, variant: str = "") -> _Run | None:
        """Return a run that returned a model, or None: what it raised is another line's business."""
        run = self.run(case, variant)
        return None if run.error is not None else run

    def _watch(self, case: Case, variant: str) -> _Run:
        problem = _problem(case)
        retain, forget = problem.retain, problem.forget
        if variant == "moved":
            both = Data({"image": torch.cat([forget.inputs["image"], retain.inputs["image"]])},
                        torch.cat([forget.labels, retain.labels]))  # fmt: skip
            index = torch.arange(len(both))
            retain, forget = both.subset(index[: case.retain]), both.subset(index[case.retain :])
        if variant == "replaced":
            other = _problem(replace(case, seed=case.seed + 1000)).forget
            forget = Data(other.inputs, (forget.labels + 1) % CLASSES)
        everything = torch.arange(len(retain)), torch.arange(len(forget))
        retain, forget = retain.subset(everything[0]), forget.subset(everything[1])  # copies: they may be written to
        history = {epoch: self._checkpoint(problem, epoch) for epoch in self._epochs_wanted()}
        parts: dict[str, Callable[[], Mapping[str, Tensor]]] = {
            "retained inputs": lambda: retain.inputs,
            "retained labels": lambda: {"": retain.labels},
            "forget set's inputs": lambda: forget.inputs,
            "forget set's labels": lambda: {"": forget.labels},
            "history": lambda: {f"{e}.{name}": t for e, state in history.items() for name, t in state.items()},
        }
        before = {name: digest(part()) for name, part in parts.items()}
        run = _Run(before=problem.checkpoints[-1])
        with _watching(run):
            try:
                run.model, meter = unlearn(
                    self.method, LittleRecipe(case.batch_size, self.epochs), problem.checkpoints[-1], retain, forget,
                    budget=self.budget, seed=case.seed, history=history,
                )  # fmt: skip
                run.examples = meter.examples
            except Exception as error:  # whatever it is, it is what the examination is for
                run.error = error
        run.changed = [name for name, part in parts.items() if digest(part()) != before[name]]
        return run

    def _checkpoint(self, problem: _Problem, epoch: int) -> dict[str, Tensor]:
        kept = problem.checkpoints[round(PASSES * epoch / self.epochs)]
        return {name: tensor.clone() for name, tensor in kept.items()}

    def _epochs_wanted(self) -> list[int]:
        history = declares(self.method.value, "history")
        return list(history(self.epochs)) if history is not None else []


@contextmanager
def _watching(run: _Run) -> Iterator[None]:
    """Note which models are called and which hooks are left on torch; take those away again."""
    places: list[dict[int, Any]] = [
        getattr(where, name)
        for where in (global_hooks, optimizer_hooks)
        for name in vars(where)
        if name.startswith("_global_") and name.endswith("_hooks")
    ]

    def note(module: nn.Module, _: Any) -> None:
        if all(module is not known for known in run.called):
            run.called.append(module)

    handle = global_hooks.register_module_forward_pre_hook(note)
    before = [set(place) for place in places]
    try:
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
    case, error = EDGES[line], examination.run(EDGES[line]).error
    if error is None or isinstance(error, ContractError):
        return
    who = f"the unlearner {examination.method.id!r}"
    said = " ".join(str(error).split())
    if not isinstance(error, UnlearningError):
        raise BrokenContract(line, f"{who} raised {type(error).__name__}: {said[:200]}", str(case)) from error
    if line == "ordinary-request":
        raise BrokenContract(line, f"{who} refused an ordinary request: {said[:200]}", str(case)) from error
    if not said:
        raise BrokenContract(line, f"{who} refused without saying why", str(case)) from error


def _on_every_request(
    check: Callable[[Examination, Case, _Run], str | None],
) -> Callable[[Examination, str], None]:
    """Return a check that must say nothing against any request; it returns what is wrong, or None."""

    def examine_all(examination: Examination, line: str) -> None:
        from hypothesis import HealthCheck, Phase, given, settings
        from hypothesis import strategies as st

        seen = 0

        def one(case: Case) -> None:
            nonlocal seen
            run = examination.good(case)
            if run is None:
                return
            seen += 1
            if wrong := check(examination, case, run):
                raise BrokenContract(line, f"the unlearner {examination.method.id!r} {wrong}", str(case))

        for case in EDGES.values():
            one(case)
        cases = st.builds(
            Case, retain=st.integers(20, 60), forget=st.integers(1, 20), batch_size=st.sampled_from([2, 7, 16, 64]),
            seed=st.integers(4, 999),
        )  # fmt: skip
        settings(
            max_examples=GENERATED, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(cases)(one))()  # fmt: skip
        if not seen:
            raise NotExamined("it returned no model on any request; the other lines say why")

    return examine_all


def _on_some_request(
    check: Callable[[Examination, Case, _Run], bool | None], wrong: str
) -> Callable[[Examination, str], None]:
    """Return a check that one ordinary request must satisfy; it returns None where nothing can be said."""

    def examine_some(examination: Examination, line: str) -> None:
        said = [
            answer
            for case in ORDINARY
            if (run := examination.good(case)) is not None
            if (answer := check(examination, case, run)) is not None
        ]
        if not said:
            raise NotExamined("it returned no model on any ordinary request; the other lines say why")
        if not any(said):
            sentence = f"the unlearner {examination.method.id!r} {wrong}"
            raise BrokenContract(line, sentence, f"{ORDINARY[0]}, and {len(ORDINARY) - 1} other seeds")

    return examine_some


def _refused(line: str) -> Callable[[Examination, str], None]:
    """Return a check that the harness itself never refused what was returned or left behind, under this line."""

    def examine_all(examination: Examination, _: str) -> None:
        for case in EDGES.values():
            error = examination.run(case).error
            if isinstance(error, ContractError) and error.line == line:
                raise BrokenContract(line, str(error), str(case))

    return examine_all


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
    for name, part in [*run.model.named_modules(), *run.model.named_parameters()]:
        hooks = [h for h, held in vars(part).items() if h.endswith("_hooks") and held] if vars(part) else []
        if isinstance(part, Tensor):
            hooks = [h for h in ("_backward_hooks", "_post_accumulate_grad_hooks") if getattr(part, h, None)]
        if hooks:
            return f"left hooks on {name or 'the model'!r}; it must remove them"
    return None


def _shares(_e: Examination, _c: Case, run: _Run) -> str | None:
    assert run.model is not None
    own = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    parts = {id(module) for module in run.model.modules()}
    for other in run.called:
        twin = type(other) is type(run.model) and id(other) not in parts
        if twin and any(p.untyped_storage().data_ptr() in own for p in other.parameters()):
            return "used a second model that shares weights with the one it returned; a copy must be copy.deepcopy's"
    return None


def _repeats(examination: Examination, case: Case, run: _Run) -> str | None:
    if not declares(examination.method.value, "repeatable"):
        return None
    again = examination.good(case, "again")
    assert run.model is not None
    if again is None or again.model is None:
        return "returned a model once and raised when asked again"
    if digest(run.model.state_dict()) != digest(again.model.state_dict()):
        return (
            "gave other weights under the same seed; it must draw from request.generator or torch's, numpy's or "
            "Python's own generators, which are seeded, or declare repeatable = False"
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
    assert run.model is not None
    return any(not torch.equal(t, run.before[name]) for name, t in run.model.state_dict().items())


def _depends(examination: Examination, case: Case, run: _Run) -> bool | None:
    moved = examination.good(case, "moved")
    return None if moved is None else run.distance(moved) > DIFFERENT


def _reads(examination: Examination, case: Case, run: _Run) -> bool | None:
    replaced = examination.good(case, "replaced")
    return None if replaced is None else run.distance(replaced) > DIFFERENT


def _is_blind(examination: Examination, case: Case, run: _Run) -> str | None:
    replaced = examination.good(case, "replaced")
    assert run.model is not None
    if replaced is None or replaced.model is None:
        return "returned a model, and raised when other points stood in the forget set"
    if digest(run.model.state_dict()) != digest(replaced.model.state_dict()):
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
    elif declares(method, "repeatable"):  # of others nobody can tell
        _on_every_request(_is_blind)(examination, line)


CHECKS: dict[str, Callable[[Examination, str], None]] = {
    **dict.fromkeys(EDGES, _serves),
    "same-architecture": _refused("same-architecture"),
    "settings": _refused("settings"),
    "finite-weights": _on_every_request(_finite),
    "changes-weights": _on_some_request(_changes, "returned the model as it came"),
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
