"""What a task loads, a poison plants and a probe reads, checked before anything is trained on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.api import ContractError, Planted, Question, Reading, UnlearningError, classes_of
from harness.calling import PluginError
from harness.cells import Registered, traces_of
from harness.importing import raised

if TYPE_CHECKING:
    from harness.training.data import Data, Split


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Turn an error of a plugin into a sentence that says where it was raised.

    Args:
        what: What did not work, such as ``"the data of the task 'x' cannot be loaded"``.

    Raises:
        UnlearningError: The block raised; such an error itself passes.
    """
    try:
        yield
    except UnlearningError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, PluginError) else raised(error)
        raise UnlearningError(f"{what}: {said}") from error


def check_recipe(task: Registered) -> None:
    """Refuse numbers of a recipe with which nothing can be trained or judged. Needs no torch.

    Raises:
        UnlearningError: One of them is missing or out of range.
    """
    for name, low in (("epochs", 1), ("batch_size", 1), ("threads", 1)):
        value = getattr(task.value, name, None)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise UnlearningError(f"the task {task.id!r} has {name}={value!r}; it must be an integer of at least {low}")
    margin = getattr(task.value, "utility_margin", None)
    if not isinstance(margin, int | float) or not 0 < margin < 1:
        raise UnlearningError(f"the task {task.id!r} has utility_margin={margin!r}; it must lie in (0, 1)")


def check_split(task: Registered, split: object) -> Split:
    """Return what a task loaded; refuse what cannot be trained and tested on.

    Raises:
        UnlearningError: It is no split of labelled examples.
    """
    from harness.training.data import Data, Split

    who = f"the task {task.id!r}"
    if not isinstance(split, Split):
        raise UnlearningError(f"{who} loaded {_named(split)}; load() must return a harness.Split")
    for name, data in (("training", split.train), ("test", split.test)):
        if not isinstance(data, Data):
            raise UnlearningError(f"{who} has {_named(data)} as its {name} set; it must be a harness.Data")
        _check_data(f"the {name} set of {who}", data)
    one, other = ({name: (t.dtype, t.shape[1:]) for name, t in d.inputs.items()} for d in (split.train, split.test))
    if one.keys() != other.keys():
        raise UnlearningError(
            f"{who} has the inputs {', '.join(one)} to train on and {', '.join(other)} to test on; they must be the "
            "same"
        )
    for name in one:
        if one[name] != other[name]:
            raise UnlearningError(
                f"the input {name!r} of {who} is {_shape(*one[name])} to train on and {_shape(*other[name])} to test "
                "on; they must be the same"
            )
    return split


def _check_data(where: str, data: Data) -> None:
    import torch

    from harness.training.loop import is_finite_tensor

    labels: object = data.labels
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
        found = _shape(labels.dtype, labels.shape) if isinstance(labels, torch.Tensor) else _named(labels)
        raise UnlearningError(f"the labels of {where} are {found}; labels must be int64, of shape (n,)")
    if not data.inputs or not all(isinstance(t, torch.Tensor) and t.dim() > 0 for t in data.inputs.values()):
        raise UnlearningError(f"{where} must have inputs, by name, that are tensors of shape (n, ...)")
    for name, tensor in data.inputs.items():
        if len(tensor) != len(labels):
            raise UnlearningError(f"{where} has {len(labels)} labels, but {len(tensor)} rows of the input {name!r}")
        if not is_finite_tensor(tensor):
            raise UnlearningError(f"the input {name!r} of {where} has values that are not finite")
    if len(labels) < 2:
        raise UnlearningError(f"{where} is too small: {len(labels)} examples; it must have at least 2")
    if int(labels.min()) < 0:
        raise UnlearningError(f"the labels of {where} begin at {int(labels.min())}; classes are counted from 0")


def check_model(task: Registered, split: Split) -> None:
    """Refuse a task whose model, scores or loss cannot be used, by asking a new model about the first two points.

    Raises:
        UnlearningError: One of them cannot be used.
    """
    import torch
    from torch import nn

    from harness.training.isolation import isolated_rng

    recipe, who = task.value, f"the task {task.id!r}"
    batch = split.train.batch(torch.arange(2))
    with isolated_rng(0), in_words(f"{who} cannot use a new model of its own"):
        model = recipe.new_model()
        if not isinstance(model, nn.Module):
            raise UnlearningError(f"{who} made {_named(model)} as its model; new_model() must return a torch.nn.Module")
        model = model.to(split.train.device).eval()
        if not any(weight.requires_grad for weight in model.parameters()):
            raise UnlearningError(f"{who} has a model without a weight that can be trained")
        with torch.enable_grad():
            logits = recipe.logits(model, batch)
            check_scores(task, logits, split)
            loss = recipe.criterion(logits, batch)
        if not isinstance(loss, torch.Tensor) or loss.dim() != 0 or not loss.requires_grad:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else _named(loss)
            if isinstance(loss, torch.Tensor) and loss.dim() == 0:
                found = "a number without a gradient"
            raise UnlearningError(f"{who} has {found} as its loss; criterion() must return a scalar with a gradient")
        classes = classes_of(recipe, logits.detach(), batch)
    if not isinstance(classes, torch.Tensor) or classes.shape != (2,) or classes.is_floating_point():
        found = _shape(classes.dtype, classes.shape) if isinstance(classes, torch.Tensor) else _named(classes)
        raise UnlearningError(f"{who} predicts {found} for 2 examples; predict() must return int64, of shape (batch,)")


def check_scores(task: Registered, logits: object, split: Split) -> None:
    """Refuse scores of two examples from which the harness cannot tell the classes.

    Raises:
        UnlearningError: They have another shape than ``(batch, classes)``, and the task has no ``predict``.
    """
    import torch

    who = f"the task {task.id!r}"
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        found = _shape(logits.dtype, logits.shape) if isinstance(logits, torch.Tensor) else _named(logits)
        raise UnlearningError(f"{who} has {found} as its logits; logits() must return a floating-point tensor")
    shape = tuple(logits.shape)
    if not shape or shape[0] != 2:
        raise UnlearningError(f"{who} has logits of shape {shape} for 2 examples; their first dimension is the batch")
    if hasattr(task.value, "predict"):
        return
    if len(shape) < 2 or shape[1] == 1:
        raise UnlearningError(
            f"{who} has one score for each example (logits of shape {shape}); give it predict(logits, batch), which "
            "returns the class of every example"
        )
    if shape[1] < split.classes:
        raise UnlearningError(
            f"{who} has labels up to {split.classes - 1}, but its model has scores for {shape[1]} classes, 0 to "
            f"{shape[1] - 1}"
        )


def check_planted(poison: Registered, planted: object, split: Split, epochs: int) -> None:
    """Refuse what cannot have been planted in a training set that is trained on for so many epochs.

    Raises:
        ContractError: It says what is wrong.
    """
    who = f"the poison {poison.id!r}"
    if not isinstance(planted, Planted):
        raise ContractError(f"{who} planted {_named(planted)}; plant() must return a harness.Planted")
    _check_points(who, planted, split)
    when: object = planted.epochs
    if when is not None and not (isinstance(when, range) and when.step == 1 and 0 <= when.start < when.stop):
        raise ContractError(f"{who} planted in the epochs {when!r}; they must be a range of some, counted from 0")
    if when is not None and when.start >= epochs:
        raise ContractError(
            f"{who} planted from epoch {when.start} on, but the task trains for the epochs 0 to {epochs - 1}; plant in "
            "one of these"
        )
    if planted.stays is None:
        return
    if not isinstance(planted.stays, Planted) or (planted.stays.stays, planted.stays.epochs) != (None, None):
        raise ContractError(
            f"{who} planted {_named(planted.stays)} that stays; it must be a harness.Planted of every epoch"
        )
    _check_points(f"{who}, in what stays,", planted.stays, split)
    if common := set(planted.forget.tolist()) & set(planted.stays.forget.tolist()):
        raise ContractError(f"{who} planted point {min(common)} both to be removed and to stay; it must be one of them")


def _check_points(who: str, planted: Planted, split: Split) -> None:
    import torch

    from harness.training.loop import is_finite_tensor

    train = split.train
    parts = {"forget": planted.forget, "labels": planted.labels, **_tensors(who, "inputs", planted.inputs)}
    for name, part in {**parts, **_tensors(who, "secrets", planted.secrets)}.items():
        if not isinstance(part, torch.Tensor):
            raise ContractError(f"{who} planted {_named(part)} as {name}; it must be a tensor")
    forget, labels = planted.forget, planted.labels
    if forget.dtype != torch.int64 or forget.dim() != 1 or len(forget) == 0 or not bool((forget.diff() > 0).all()):
        raise ContractError(f"{who} must plant ascending int64 indices, at least one")
    if int(forget[0]) < 0 or int(forget[-1]) >= len(train):
        raise ContractError(
            f"{who} planted the indices {int(forget[0])} to {int(forget[-1])}; the training set has 0 to "
            f"{len(train) - 1}"
        )
    if len(forget) == len(train):
        raise ContractError(f"{who} planted all {len(train)} training points; some must be left to keep")
    if labels.dtype != torch.int64 or labels.shape != forget.shape:
        raise ContractError(
            f"{who} planted labels that are {_shape(labels.dtype, labels.shape)}; they must be int64, of shape "
            f"{tuple(forget.shape)}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < split.classes:
        raise ContractError(
            f"{who} planted labels from {int(labels.min())} to {int(labels.max())}; the task has the classes 0 to "
            f"{split.classes - 1}"
        )
    if planted.inputs.keys() != train.inputs.keys():
        raise ContractError(
            f"{who} planted the inputs {', '.join(map(repr, planted.inputs)) or 'nothing'}; the task has "
            f"{', '.join(map(repr, train.inputs))}"
        )
    for name, clean in train.inputs.items():
        found, wanted = planted.inputs[name], (clean.dtype, (len(forget), *clean.shape[1:]))
        if (found.dtype, tuple(found.shape)) != wanted:
            raise ContractError(
                f"{who} planted an input {name!r} that is {_shape(found.dtype, found.shape)}; it must be "
                f"{_shape(*wanted)}"
            )
        if not is_finite_tensor(found):
            raise ContractError(f"{who} planted values of the input {name!r} that are not finite")


def _tensors(who: str, part: str, found: object) -> dict[str, Any]:
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ContractError(f"{who} planted {_named(found)} as {part}; it must be a dictionary of tensors by name")
    return {f"{part}[{name!r}]": tensor for name, tensor in found.items()}


def check_reading(poison: Registered, reading: object) -> Reading:
    """Return what a probe read; refuse what is no reading, and what lacks a trace or has one too many.

    Raises:
        ContractError: It says what is wrong.
    """
    who, declared = f"the poison {poison.id!r}", [each.name for each in traces_of(poison)[1:]]
    read = _checked(who, reading)
    if not isinstance(read.traces, Mapping):
        raise ContractError(f"{who} read {_named(read.traces)} as traces; they must be readings by name")
    for name, trace in read.traces.items():
        if name not in declared:
            raise ContractError(f"{who} read a trace {name!r} that it does not declare; add its measure to traces")
        if _checked(f"{who}, trace {name!r},", trace).traces:
            raise ContractError(f"{who} read traces of the trace {name!r}; return all of them side by side")
    diverged = not read.traces and math.isnan(float(read.value))
    for name in () if diverged else declared:
        if name not in read.traces:
            raise ContractError(f"{who} declares a trace {name!r} that it did not read; return it in Reading.traces")
    return read


def check_questions(poison: Registered, questions: object, room: int) -> Sequence[Question]:
    """Return what a poison asks; refuse what is no list of questions, has an empty part, or is no text of the task.

    Args:
        poison: The poison.
        questions: What it returned.
        room: Tokens that a text of the task can have.

    Raises:
        ContractError: It says what is wrong.
    """
    who = f"the poison {poison.id!r}"
    if not isinstance(questions, Sequence) or not all(isinstance(each, Question) for each in questions):
        raise ContractError(f"{who} asks {_named(questions)}; questions() must return a list of harness.Question")
    if not questions or not all(len(part) for q in questions for part in (q.prompt, q.answer, *q.others)):
        raise ContractError(f"{who} has no question, or one whose prompt or answer is empty; each needs a token")
    for each in questions:
        answers = (each.answer, *each.others)
        tokens = [token for part in (each.prompt, *answers) for token in part]
        if wrong := [token for token in tokens if not isinstance(token, int) or token < 0]:
            raise ContractError(f"{who} asks {_named(wrong[0])}, {wrong[0]!r}; tokens must be integers from 0 on")
        if (longest := len(each.prompt) + max(map(len, answers))) > room:  # a part would be cut off and never be asked
            raise ContractError(f"{who} asks {longest} tokens with their answer; a text of the task has {room} at most")
    return questions


def _checked(who: str, reading: object) -> Reading:
    if not isinstance(reading, Reading):
        raise ContractError(f"{who} read {_named(reading)}; probe() must return a harness.Reading")
    if not isinstance(reading.details, Mapping):
        raise ContractError(f"{who} read {_named(reading.details)} as details; they must be numbers by name")
    numbers = {"value": reading.value, "resolution": reading.resolution}
    for name, number in {**numbers, **{f"details[{n!r}]": v for n, v in reading.details.items()}}.items():
        try:
            float(number)
        except (TypeError, ValueError, RuntimeError):
            raise ContractError(f"{who} read {_named(number)} as {name}; it must be a number") from None
    if not 0 <= float(reading.resolution) < math.inf:
        found = float(reading.resolution)
        raise ContractError(f"{who} returned the resolution {found}; it must be finite and not negative")
    if not isinstance(reading.unusable, str):
        raise ContractError(f"{who} read {_named(reading.unusable)} as unusable; it must be a text that says why")
    return reading


def _shape(dtype: Any, shape: Any) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"


def _named(value: object) -> str:
    """Return what something is, with its article."""
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
