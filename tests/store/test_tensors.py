"""Tensors of every type come back from the store as they went in, by whatever version of safetensors."""

from dataclasses import dataclass

import pytest
import torch
from labs import lab_in
from safetensors.torch import load, save
from tiny import Tiny
from torch import nn

from harness import registry
from harness.api import UnlearningError
from harness.cells import Cell, Trial
from harness.store.artefacts import Store
from harness.store.tensors import TYPES, decoded, encoded

RARE = ("complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")


def drawn(kind, *shape):
    """Return a tensor of a type; NaNs among its values are no matter, its bytes are compared."""
    size = torch.empty(0, dtype=kind).itemsize
    raw = torch.randint(0, 2, (*shape, size), dtype=torch.uint8)
    return raw.view(kind).reshape(shape)


def same(one, other):
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("kind", [*TYPES, *RARE])
def test_what_is_stored_comes_back(tmp_path, kind):
    type_ = getattr(torch, kind)
    tensors = {"a": drawn(type_, 3, 2), "scalar": drawn(type_).reshape(()), "none": drawn(type_, 0)}
    store = Store(tmp_path, "first")
    made = store.obtain("planted", {"of": kind}, lambda: ({}, tensors), "trial")
    for each in (store, Store(tmp_path, "second")):  # from memory, and from the file
        found = each.tensors(made)
        assert found.keys() == tensors.keys()
        assert all(same(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", RARE)
def test_a_file_holds_only_types_that_every_safetensors_knows(kind):
    kept = encoded({"a": drawn(getattr(torch, kind), 4)})
    assert {str(tensor.dtype).removeprefix("torch.") for tensor in kept.values()} <= set(TYPES)


def test_names_are_kept_whatever_stands_in_them():
    names = ("a|float32", "a", "a|", "a|complex64", "|")
    tensors = {name: torch.full((2,), i) for i, name in enumerate(names)} | {"b|c": torch.zeros(1).cfloat()}
    found = decoded(load(save(encoded(tensors))))
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("name", ["a|nothing", "a|complex64"])
def test_what_is_no_tensor_of_its_type_is_damage(name):
    with pytest.raises(ValueError, match=r"type|size"):
        decoded({name: torch.zeros(3)})


def test_a_sparse_tensor_is_refused_by_name(tmp_path):
    with pytest.raises(UnlearningError, match="the tensor 'odd' is sparse and cannot be stored"):
        Store(tmp_path, "run").obtain("planted", {}, lambda: ({}, {"odd": torch.eye(3).to_sparse()}), "trial")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_tensor_is_refused_by_name(tmp_path):
    odd = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(UnlearningError, match="the tensor 'odd' is quantised and cannot be stored"):
        Store(tmp_path, "run").obtain("planted", {}, lambda: ({}, {"odd": odd}), "trial")


class Turn(nn.Module):
    """A network that turns its input in the complex plane, by a buffer."""

    def __init__(self, kind):
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(16), torch.arange(16.0)).to(kind))
        self.first, self.head = nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x):
        z = x.flatten(1) * self.turn
        return self.head(torch.relu(self.first(torch.cat([z.real, z.imag], 1).float())))


@dataclass(frozen=True)
class Turned(Tiny):
    double: bool = True

    def new_model(self):
        return Turn(torch.complex128 if self.double else torch.complex64)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("name", ["gd", "undo", "ssd"])
def test_a_model_with_a_complex_buffer_is_audited(tmp_path, double, name):
    task = registry.register("task", Turned(double=double))
    cell = Cell(registry.resolve("unlearner", name), task, registry.resolve("poison", "backdoor:size=1"))
    lab = lab_in(tmp_path, budget=0.5)
    first = lab.run(Trial(cell, 0))
    assert first.readings["poison"]["P"].value > 0.8
    again = lab_in(tmp_path, "later", budget=0.5).run(Trial(cell, 0))
    assert again.readings == first.readings
    assert not again.made_here


def test_a_complex_weight_that_is_not_finite_is_noticed():
    from harness.training.loop import is_finite

    model = nn.Linear(2, 2)
    model.register_buffer("small", torch.zeros(2).to(torch.float8_e4m3fn))
    model.register_buffer("turn", torch.ones(2).cfloat())
    assert is_finite(model)
    model.turn[0] = complex("nan")
    assert not is_finite(model)
