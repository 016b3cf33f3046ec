"""The one way in which an unlearner is called: what it is handed, and what is checked of what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.api import ContractError, Planted, declares
from harness.calling import calling
from harness.cells import Registered
from harness.guards.guard import guarded
from harness.request import ForgetRequest
from harness.training.data import Data
from harness.training.isolation import isolated_rng
from harness.training.meter import Meter

if TYPE_CHECKING:
    from harness.api import Recipe
    from harness.training.loop import Fitting


def unlearn(
    method: Registered,
    recipe: Recipe,
    poisoned: Mapping[str, Tensor],
    retain: Data,
    forget: Data,
    *,
    budget: float,
    seed: int,
    history: Mapping[int, Mapping[str, Tensor]] | None = None,
    seconds: float | None = None,
    closed: tuple[str, ...] = (),
    longer: str = "",
    operations: bool = True,
) -> tuple[nn.Module, Meter]:
    """Have a method remove the forget set from a model.

    The method may write to the data and the history that it is given; it gets a copy of the model. One that works from
    scratch promised to use neither the model nor the forget set, and gets neither.

    Args:
        method: The unlearner.
        recipe: The task's recipe.
        poisoned: State dict of the model to clean.
        retain: The points to keep, on the device.
        forget: The points to remove, on the same device.
        budget: Compute it may use, in passes over the retain set.
        seed: Of all that is random.
        history: Checkpoints by epoch.
        seconds: The time it has, or None.
        closed: Folders of which it must neither read nor write anything.
        longer: What the error that it took longer says beside that, such as the seed and how to give it longer.
        operations: Whether the meter counts floating-point operations, which slows small models down.

    Returns:
        What the method returned, and what it cost.

    Raises:
        ContractError: It returned no model or one of another architecture, or left something changed or running.
        PluginExit: It tried to end its own test or the process.
        TimedOut: It took longer than it may.
        Exception: Whatever the method raised.
    """
    with isolated_rng(seed):
        model, request = _handed(method, recipe, poisoned, retain, forget, budget, seed, history or {})
        expected = _architecture(model)
        # What a control costs is no question.
        meter = Meter(model, operations=operations and not declares(method.value, "control"))
        who = f"the unlearner {method.id!r}"
        with torch.enable_grad(), guarded(who, closed=closed, seconds=seconds, longer=longer), meter:
            returned = method.value(model.train(), request)
    _check_model(method.id, returned, *expected)
    return returned, meter


def begin(method: Registered, recipe: Recipe, retain: Data, forget: Data, *, budget: float, seed: int) -> Fitting:
    """Return the training that all of a method from scratch is, for `harness.training.loop.finish_all`; as `unlearn`.

    The method has a method ``begin``.
    """
    with isolated_rng(seed):
        _, request = _handed(method, recipe, {}, retain, forget, budget, seed, {})
        fitting: Fitting = method.value.begin(request)
        return fitting


def _handed(
    method: Registered,
    recipe: Recipe,
    poisoned: Mapping[str, Tensor],
    retain: Data,
    forget: Data,
    budget: float,
    seed: int,
    history: Mapping[int, Mapping[str, Tensor]],
) -> tuple[nn.Module, ForgetRequest]:
    """Return what a method is called with."""
    model = recipe.new_model().to(retain.device)
    if declares(method.value, "from_scratch"):
        forget, history = forget.subset(torch.arange(0)), {}
    else:
        model.load_state_dict(poisoned)
    generator = torch.Generator().manual_seed(seed)
    return model, ForgetRequest(retain, forget, budget, generator, retain.device, recipe, history)


def handed_over(train: Data, planted: Planted, known: Tensor, left: Tensor) -> tuple[Data, Data]:
    """Return what an unlearner is told to keep and to remove, on the device of the training set.

    They are copies: the method may write to what it is given, and what was planted serves later trials.

    Args:
        train: The clean training set.
        planted: The poisoned points.
        known: Positions, among these, of those that it is told of; the others are in what it keeps.
        left: Mask of what it keeps, over the training set.
    """
    forget = Data(planted.inputs, planted.labels).subset(known).to(train.device)
    everything = len(known) == len(planted.forget)
    train = train.retained_with(planted) if everything else train.poisoned_with(planted)
    return train.subset(left.nonzero().squeeze(1)), forget


def wanted_epochs(method: Registered, epochs: int) -> list[int]:
    """Return the epochs of the training, of so many, whose checkpoints a method declares to want; ascending.

    Raises:
        ContractError: They are none of the training's.
    """
    history = declares(method.value, "history")
    if history is None or declares(method.value, "from_scratch"):
        return []
    with calling(f"the unlearner {method.id!r}"):
        wanted = history(epochs) if callable(history) else history
    if not all(isinstance(epoch, int) and 0 <= epoch <= epochs for epoch in wanted):
        raise ContractError(
            f"the unlearner {method.id!r} wants the model after epochs {list(wanted)}; there are 0 to {epochs}"
        )
    return sorted(set(wanted))


def _architecture(model: nn.Module) -> tuple[type, dict[str, Any]]:
    extra = "_extra_state"  # of a module's own making, and of any size
    tensors = {name: t for name, t in model.state_dict().items() if name.rpartition(".")[2] != extra}
    return type(model), {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}


def _check_model(name: str, returned: object, expected_type: type, expected: dict[str, Any]) -> None:
    if not isinstance(returned, nn.Module):
        raise ContractError(
            f"the unlearner {name!r} returned {type(returned).__name__}; it must return the cleaned model",
            "same-architecture",
        )
    actual_type, actual = _architecture(returned)
    if actual_type is not expected_type or actual != expected:
        what = f"{actual_type.__name__} in place of {expected_type.__name__}"
        if actual_type is expected_type:
            first = next(name for name in [*expected, *actual] if expected.get(name) != actual.get(name))
            was, became = (" ".join(map(str, found.get(first, ("nothing",)))) for found in (expected, actual))
            what = f"a {actual_type.__name__} whose {first!r} is {became} in place of {was}"
        raise ContractError(
            f"the unlearner {name!r} returned another architecture ({what}); it must return a model of the one it was "
            "given",
            "same-architecture",
        )
