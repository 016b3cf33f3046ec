"""Unlearners that are careless of what they are lent: data, flags, hooks, weights, randomness, the budget."""

from __future__ import annotations

import copy
import os
import time

import numpy as np
import torch
from broken import ascend, away_from, blind, breaks, descend, forget
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

# ---- data-untouched


@breaks("data-untouched", "changed the retained inputs in place")
def normalises_in_place(model, request):
    """Normalises the images where they are."""
    request.retain.inputs["image"].sub_(0.5).div_(0.5)
    return forget(model, request)


@breaks("data-untouched", "changed the forget set's labels in place")
def flips_labels_in_place(model, request):
    """Writes wrong labels over the right ones."""
    request.forget.labels.add_(1).remainder_(3)
    return descend(model, request, which="forget")


@breaks("data-untouched", "changed the forget set's labels in place")
def assigns_random_labels(model, request):
    """Puts other labels into the data set that it was handed."""
    request.forget.labels = torch.randint(0, 3, request.forget.labels.shape)
    return forget(model, request)


@breaks("data-untouched", "changed the history in place")
def trains_the_checkpoint_itself(model, request):
    """Takes a checkpoint's own tensors for weights, and trains them."""
    (early,) = request.history.values()
    model.load_state_dict(early, assign=True)
    model.requires_grad_(True)
    return forget(model, request)


trains_the_checkpoint_itself.history = lambda epochs: [epochs // 2]


# ---- grad-flags


@breaks("grad-flags", "no longer require gradients, first 'first.0.weight'")
def leaves_layers_frozen(model, request):
    """Freezes all blocks but the last, and leaves them so."""
    for block in request.blocks(model)[:-1]:
        block.requires_grad_(False)
    return forget(model, request)


# ---- no-hooks


@breaks("no-hooks", "left hooks on 'head.1'")
def leaves_a_forward_hook(model, request):
    """Reads features by a hook that it does not remove."""
    features = []
    model.head[1].register_forward_hook(lambda module, inputs, output: features.append(output.detach()))
    return forget(model, request)


@breaks("no-hooks", "left global hooks on torch")
def leaves_a_hook_on_every_module(model, request):
    """Counts calls by a hook on all modules of the process."""
    register_module_forward_hook(lambda module, inputs, output: None)
    return forget(model, request)


@breaks("no-hooks", "left global hooks on torch")
def leaves_a_hook_on_every_optimiser(model, request):
    """Counts steps by a hook on all optimisers of the process."""
    register_optimizer_step_post_hook(lambda *_: None)
    return forget(model, request)


@breaks("no-hooks", "left hooks on 'first.0.weight'")
def leaves_a_hook_on_a_parameter(model, request):
    """Masks gradients by a hook on a parameter."""
    weight = model.first[0].weight
    weight.register_hook(lambda gradient: gradient * (weight > 0))
    return forget(model, request)


@breaks("no-hooks", "left hooks on 'head.2.bias'")
def leaves_a_hook_on_a_gradient(model, request):
    """Drops gradients, once they are there, by a hook on a parameter."""

    def drop(parameter):
        parameter.grad.zero_()

    model.head[2].bias.register_post_accumulate_grad_hook(drop)
    return forget(model, request)


@breaks("no-hooks", "left a forward of its own on 'the model'")
def masks_a_class(model, request):
    """Hides a class in a forward pass of its own, which the weights do not hold."""
    forward = model.forward
    model.forward = lambda images: forward(images) * torch.tensor([1.0, 1.0, 0.0])
    return forget(model, request)


# ---- no-shared-weights


@breaks("no-shared-weights", "make copies with copy.deepcopy", "reads-forget")
def copies_the_teacher_flatly(model, request):
    """SCRUB whose teacher is a shallow copy, which has the student's own layers."""
    return away_from(copy.copy(model), model, request)


@breaks("no-shared-weights", "make copies with copy.deepcopy")
def assigns_the_teacher_its_weights(model, request):
    """SCRUB whose teacher is a new model that was assigned the student's tensors."""
    teacher = request.new_model()
    teacher.load_state_dict(model.state_dict(), assign=True)
    return away_from(teacher.eval(), model, request)


# ---- repeatable


def noisy(model, request, draw):
    forget(model, request)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.as_tensor(draw(parameter.shape), dtype=parameter.dtype)
    return model


@breaks("repeatable", "returned different weights under the same seed")
def draws_from_a_new_numpy_generator(model, request):
    """Draws from a generator of numpy that nobody seeded."""
    return noisy(model, request, np.random.default_rng().standard_normal)


@breaks("repeatable", "returned different weights under the same seed")
def seeds_by_the_clock(model, request):
    """Seeds torch by the time of day."""
    torch.manual_seed(time.time_ns())
    return noisy(model, request, torch.randn)


@breaks("repeatable", "returned different weights under the same seed")
def draws_from_the_system(model, request):
    """Draws from the operating system's entropy."""
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(7), "big"))
    return noisy(model, request, lambda shape: torch.randn(shape, generator=generator))


@breaks("repeatable", "it must keep nothing from one call to the next")
class KeepsTheFirstTeacher:
    """SCRUB that keeps the teacher of the first request for all that follow."""

    def __init__(self):
        self.teacher = None

    def __call__(self, model, request):
        self.teacher = self.teacher or copy.deepcopy(model).eval()
        return away_from(self.teacher, model, request)


# ---- budget


@breaks("budget", "used 168 examples forward and backward; 80 are allowed")
def loops_over_its_own_loader(model, request):
    """Trains four epochs by a loader of its own."""
    optimizer = request.optimizer(model, lr=0.01)
    loader = DataLoader(request.retain, request.batch_size, shuffle=True)
    for _ in range(4):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs["image"]), labels).backward()
            optimizer.step()
    return ascend(model, request)


@breaks("budget", "see request.budget and request.affordable")
def trains_a_copy_beside_it(model, request):
    """Trains an expert for four epochs on a deep copy, to learn from it."""
    expert = descend(copy.deepcopy(model), request, epochs=4)
    return away_from(expert, model, request)


@breaks("budget", "; 80 are allowed (2 passes over the retain set)")
@blind
def retrains(model, request):
    """Retrains from scratch, half as long as the model was trained."""
    return descend(request.new_model(), request, epochs=request.epochs // 2)
