"""Unlearners that are broken on purpose, each in a way that people break theirs, under the line that must say so."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from harness.api import UnlearningError


@dataclass(frozen=True)
class Broken:
    """A broken method, the line that rejects it, a piece of the sentence, and the other lines that it breaks."""

    method: Callable[..., Any]
    line: str
    says: str
    also: tuple[str, ...] = ()

    def __str__(self) -> str:
        return getattr(self.method, "__name__", type(self.method).__name__)


BROKEN: list[Broken] = []


def breaks(line: str, says: str, *also: str) -> Callable[[Any], Any]:
    def note(method: Any) -> Any:
        BROKEN.append(Broken(method() if isinstance(method, type) else method, line, says, also))
        return method

    return note


def blind(method: Any) -> Any:
    """Declare that a method does not read the forget set."""
    method.reads_forget = False
    return method


def descend(model, request, loss=None, which="retain", epochs=1, lr=0.05):
    optimizer = request.optimizer(model, lr=lr)
    for batch in request.batches(which, epochs):
        optimizer.zero_grad()
        (loss or request.loss)(model, batch).backward()
        optimizer.step()
    return model


def ascend(model, request, lr=0.01):
    return descend(model, request, lambda *of: -request.loss(*of), "forget", lr=lr)


def forget(model, request):
    """Nothing is wrong with this one: what the others do beside their mistake."""
    return descend(ascend(model, request), request)


def away_from(teacher, model, request):
    """The max epoch of SCRUB: away from a teacher on the forget set."""

    def distance(model, batch):
        with torch.no_grad():
            target = log_softmax(request.logits(teacher, batch), dim=1)
        return -kl_div(log_softmax(request.logits(model, batch), dim=1), target, reduction="batchmean", log_target=True)

    return descend(descend(model, request, distance, "forget"), request)


# ---- ordinary-request


@breaks("ordinary-request", "raised AttributeError", "one-point", "whole-class", "large-batch")
def expects_a_torchvision_data_set(model, request):
    """Reads ``targets``, which data sets of torchvision have."""
    return forget(model, request) if len(request.retain.targets) else model


@breaks("ordinary-request", "refused an ordinary request: written for ten classes")
def is_made_for_one_data_set(model, request):
    """Refuses whatever is not the data that it was written for."""
    if request.retain.labels.max() < 9:
        raise UnlearningError("written for ten classes")
    return forget(model, request)


@breaks("ordinary-request", "raised ZeroDivisionError", "one-point", "whole-class", "large-batch")
def drops_the_last_batch(model, request):
    """Drops a batch that is not full, has none left, and divides by their number."""
    loader = DataLoader(request.forget, request.batch_size, shuffle=True, drop_last=True)
    return ascend(model, request, lr=0.01 / len(loader))


@breaks("ordinary-request", "raised RuntimeError: ", "whole-class")
def pairs_batches_of_unequal_size(model, request):
    """Mixes forget batches into retain batches, which fails where the last of those is the smaller one."""

    def mixed(model, batch):
        other = next(iter(request.batches("forget")))
        batch.inputs["image"][: len(other)].lerp_(other.inputs["image"], 0.5)
        return request.loss(model, batch)

    return descend(model, request, mixed)


# ---- one-point


@breaks("one-point", "raised ZeroDivisionError")
def divides_by_n_minus_one(model, request):
    """Scales by an unbiased variance, which one point does not have."""
    return ascend(model, request, lr=0.01 / (len(request.forget) - 1))


@breaks("one-point", "raised ValueError: batch_size should be a positive integer")
def halves_the_forget_set(model, request):
    """Makes two batches of the forget set, of which a single point leaves none."""
    loader = DataLoader(request.forget, batch_size=len(request.forget) // 2)
    return ascend(model, request, lr=0.01 / len(loader))


@breaks("one-point", "raised ValueError: two points at least")
def refuses_by_another_error(model, request):
    """Refuses in words, but by an error that a bug could raise too."""
    if len(request.forget) < 2:
        raise ValueError("two points at least")
    return forget(model, request)


@breaks("one-point", "refused without giving a reason")
def refuses_without_a_word(model, request):
    """Refuses, and leaves the person to guess."""
    if len(request.forget) < 2:
        raise UnlearningError
    return forget(model, request)


# ---- whole-class, large-batch


@breaks("whole-class", "raised KeyError: 2")
def looks_classes_up_in_the_retain_set(model, request):
    """Takes every class to be in the retain set."""
    images, labels = request.retain.inputs["image"], request.retain.labels
    means = {int(c): images[labels == c].mean(0) for c in labels.unique()}

    def towards_the_mean(model, batch):
        batch.inputs["image"] = torch.stack([means[int(label)] for label in batch.labels])
        return request.loss(model, batch)

    return descend(ascend(model, request), request, towards_the_mean, "forget")


@breaks("large-batch", "raised ValueError: Sample larger than population")
def samples_a_full_batch(model, request):
    """Draws a batch without replacement from fewer points than it has."""
    chosen = torch.tensor(random.sample(range(len(request.retain)), request.batch_size))
    ascend(model, request)
    return descend(model, request, lambda model, _: request.loss(model, request.retain.batch(chosen)))


# ---- same-architecture


@breaks("same-architecture", "returned NoneType; it must return the cleaned model")
def returns_none(model, request):
    """Trains in place and forgets to return."""
    forget(model, request)


@breaks("same-architecture", "returned tuple")
def returns_the_loss_too(model, request):
    """Returns more than the model."""
    return forget(model, request), 0.0


@breaks("same-architecture", "returned OrderedDict")
def returns_a_state_dict(model, request):
    """Returns the weights alone."""
    return forget(model, request).state_dict()


@breaks("same-architecture", "another architecture (Linear in place of Net")
def returns_another_architecture(model, request):
    """Returns a model of its own."""
    return nn.Linear(64, 3)


@breaks("same-architecture", "another architecture (a Net whose")
def returns_double_precision(model, request):
    """Leaves the weights in double precision."""
    return forget(model, request).double()


@breaks("same-architecture", "another architecture (AveragedModel in place of Net")
def returns_the_wrapper(model, request):
    """Averages weights, and returns the object that averages in place of its module."""
    averaged = AveragedModel(model)
    averaged.update_parameters(forget(model, request))
    return averaged


# ---- finite-weights


@breaks("finite-weights", "not finite")
def diverges(model, request):
    """Climbs a loss without bound, in steps far too large."""
    return descend(model, request, lambda *of: -request.loss(*of), "forget", epochs=3, lr=1e30)


@breaks("finite-weights", "not finite, first 'head.2.bias'")
def has_no_variance_of_one_point(model, request):
    """Divides zero by zero on a single point, in tensors, where nothing is raised."""
    images = forget(model, request) and request.forget.inputs["image"].flatten(1)
    variance = (images - images.mean(0)).square().sum(0) / (torch.tensor(len(images)) - 1)
    with torch.no_grad():
        model.head[2].bias += variance.mean()
    return model


# ---- changes-weights


@breaks("changes-weights", "returned the parameters of the model unchanged")
def does_nothing(model, request):
    """Does nothing."""
    return model


@breaks("changes-weights", "check that an optimiser steps")
def never_steps(model, request):
    """Leaves ``optimizer.step()`` out."""
    for batch in request.batches("retain"):
        request.loss(model, batch).backward()
    return model


@breaks("changes-weights", "check that an optimiser steps")
def clears_gradients_too_late(model, request):
    """Clears the gradients between the backward pass and the step."""
    optimizer = request.optimizer(model)
    for batch in request.batches("retain"):
        request.loss(model, batch).backward()
        optimizer.zero_grad()
        optimizer.step()
    return model


@breaks("changes-weights", "that it is this model's")
def steps_another_model(model, request):
    """Makes the optimiser first and copies the model afterwards."""
    optimizer = request.optimizer(model)
    student = copy.deepcopy(model)
    for batch in request.batches("retain"):
        request.loss(student, batch).backward()
        optimizer.step()
    return student


@breaks("changes-weights", "of the model unchanged")
def returns_the_original(model, request):
    """Trains a copy and returns the model that it was copied from."""
    forget(copy.deepcopy(model), request)
    return model


# ---- depends-on-split


@breaks("depends-on-split", "it does not use the request", "reads-forget")
def adds_noise_only(model, request):
    """Adds noise, whatever is to be forgotten."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@breaks("depends-on-split", "it does not use the request")
@blind
def prunes_small_weights(model, request):
    """Removes the smallest weights, whatever is to be forgotten."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= parameter.abs() > parameter.abs().median()
    return model


# ---- reads-forget


@breaks("reads-forget", "its result depends on what the forget set holds")
@blind
def reads_what_it_declares_not_to(model, request):
    """Declares that it trains on the retain set alone, and does not."""
    return forget(model, request)


@breaks("reads-forget", "if this is intended, declare reads_forget = False")
def does_not_declare_that_it_is_blind(model, request):
    """Trains on the retain set alone, and does not say so."""
    return descend(model, request)


@breaks("reads-forget", "check that a teacher is a copy")
def is_its_own_teacher(model, request):
    """SCRUB whose teacher is the student: it never gets away from itself."""
    teacher = model
    return away_from(teacher, model, request)


@breaks("reads-forget", "that the loss on the forget set is used")
def subtracts_a_number(model, request):
    """Takes the loss on the forget set as a number, which has no gradient."""
    forgotten = next(iter(request.batches("forget")))
    return descend(model, request, lambda m, batch: request.loss(m, batch) - request.loss(m, forgotten).item())
