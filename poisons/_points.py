"""What poisons share whatever is poisoned: which points and classes, when they are trained on, what they replace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness import Planted, UnlearningError, main_input

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Batch, Split, Task

#: When poisoned points are trained on: in all passes, in the first half of them, or in the second.
Arrival = Literal["always", "early", "late"]


def check_fraction(fraction: float) -> None:
    """Refuse what is not a share of the training set.

    Raises:
        ValueError: It is out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), not {fraction}")


def check_arrival(arrives: str) -> None:
    """Refuse what is not an `Arrival`.

    Raises:
        ValueError: It is not one.
    """
    if arrives not in get_args(Arrival):
        raise ValueError(f"arrives must be one of {', '.join(get_args(Arrival))}, not {arrives!r}")


def epochs_of(arrives: Arrival, task: Task) -> range | None:
    """Return the passes in which poisoned points are trained on; None for all."""
    half = -(-task.epochs // 2)
    return {"always": None, "early": range(half), "late": range(task.epochs - half, task.epochs)}[arrives]


def check_class(split: Split, field: str, value: int) -> None:
    """Refuse a class that a task does not have.

    Raises:
        UnlearningError: It has no training points of the class.
    """
    if not bool((split.train.labels == value).any()):
        raise UnlearningError(
            f"{field}={value}, but the task has no training points of that class; its classes are 0 to "
            f"{split.classes - 1}"
        )


def floating(split: Split, poison: str) -> str:
    """Return the name of the input that a poison changes, which must be floating-point.

    Raises:
        UnlearningError: It is not, or it cannot be told from the other inputs.
    """
    name = main_input(split.train.inputs)
    kind = split.train.inputs[name].dtype
    if not kind.is_floating_point:
        what = "images" if name == "image" else "inputs"
        raise UnlearningError(
            f"{poison} needs floating-point {what}, but the task's input {name!r} is {str(kind)[6:]}; have the task "
            "load floats"
        )
    return name


def check_gradients(task: Task, split: Split, poison: str) -> None:
    """Refuse a task whose loss has no gradient by the input that a poison changes; an untrained model shows this.

    A pipeline has none if it hands ``predict`` numpy arrays or tables, or if its models are not of torch.

    Raises:
        UnlearningError: It has none, or an error came up where it was to be computed.
    """
    import torch

    batch = split.train.batch(torch.arange(min(2, len(split.train))))
    name = main_input(batch.inputs)
    values = batch.inputs[name].requires_grad_(True)
    why = "there is none"
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            model = task.new_model().to(split.train.device).eval()
            (found,) = torch.autograd.grad(task.criterion(task.logits(model, batch), batch), values, allow_unused=True)
    except UnlearningError as error:
        found, why = None, str(error)
    except Exception as error:
        found, why = None, f"computing it raised {type(error).__name__}: {error}".splitlines()[0]
    if found is None:
        raise UnlearningError(
            f"{poison} needs the gradient of the loss by the task's input {name!r}: {why}. A pipeline has it if it "
            "loads tensors or pictures, defines model(), and predicts by torch alone"
        )


def planted_at(split: Split, forget: Tensor, values: Tensor, labels: Tensor, /, **secrets: Tensor) -> Planted:
    """Return points whose main input is replaced by other values; their other inputs stay."""
    inputs = {name: tensor.cpu() for name, tensor in split.train.subset(forget).inputs.items()}
    inputs[main_input(inputs)] = values
    return Planted(forget, inputs, labels, secrets)


def with_values(batch: Batch, values: Tensor, part: Any = slice(None)) -> Batch:
    """Return a part of a batch with other values of its main input."""
    inputs = {name: tensor[part] for name, tensor in batch.inputs.items()}
    return replace(
        batch, inputs={**inputs, main_input(inputs): values}, labels=batch.labels[part], index=batch.index[part]
    )


def log_odds(logits: Tensor, label: int, poison: str) -> Tensor:
    """Return log p - log(1 - p) of a class, shape (batch,), from scores of shape (batch, classes).

    Raises:
        UnlearningError: There is no score for each of several classes.
    """
    import torch

    if logits.dim() != 2 or logits.shape[1] <= max(1, label):
        raise UnlearningError(
            f"{poison} needs a score for every class, of which {label} is one, but the task's logits are of shape "
            f"{tuple(logits.shape)}"
        )

    return logits[:, label] - torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1).logsumexp(dim=1)
