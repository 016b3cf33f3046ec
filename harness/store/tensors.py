"""Tensors of any type in a file format that knows few: what stands in a blob for a tensor, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from harness.api import UnlearningError

if TYPE_CHECKING:
    from torch import Tensor

#: Types that every version of safetensors stores. Others are stored as one of these, named behind the tensor's name.
TYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
#: Types of the bytes of others, by their size.
BYTES = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


def copied(name: str, tensor: Tensor) -> Tensor:
    """Return a copy on the CPU: safetensors refuses views and shared storage, and a copy has neither.

    Raises:
        UnlearningError: The tensor is sparse or quantised.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else "sparse"
        raise UnlearningError(f"the tensor {name!r} is {kind} and cannot be stored; a model must hold dense tensors")
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().clone()


def encoded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in types that can be stored: complex ones as real and imaginary parts, rare ones as integers."""
    import torch

    found = {}
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_complex():
            found[f"{name}|{kind}"] = torch.view_as_real(tensor)
        elif kind not in TYPES:
            found[f"{name}|{kind}"] = tensor.view(getattr(torch, BYTES[tensor.itemsize]))
        else:
            found[f"{name}|" if "|" in name else name] = tensor
    return found


def decoded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `encoded` made these of.

    Raises:
        ValueError: It made them of nothing.
    """
    import torch

    found = {}
    for stored, tensor in tensors.items():
        name, _, kind = stored.rpartition("|") if "|" in stored else (stored, "", "")
        type_ = getattr(torch, kind, None) if kind else tensor.dtype
        if not isinstance(type_, torch.dtype):
            raise ValueError(f"{stored!r} names no type")
        try:
            found[name] = torch.view_as_complex(tensor) if type_.is_complex else tensor.view(type_)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    return found
