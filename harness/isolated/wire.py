"""What goes to an isolated process and what comes back: JSON and safetensors in files, and never a pickle."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.store.tensors import copied, decoded, encoded

if TYPE_CHECKING:
    from torch import Tensor

PLAIN, TENSORS = "plain.json", "tensors.safetensors"
#: Bytes of JSON that are read of an answer.
LONGEST = 1 << 24


def write(folder: Path, plain: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write plain values and tensors, at least one file, to a folder."""
    if tensors:
        from safetensors.torch import save_file

        save_file(encoded({name: copied(name, tensor) for name, tensor in tensors.items()}), folder / TENSORS)
    (folder / PLAIN).write_text(json.dumps(plain), encoding="utf-8")


def read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return what we wrote to a folder."""
    plain = json.loads((folder / PLAIN).read_text(encoding="utf-8"))
    if not (folder / TENSORS).exists():
        return plain, {}
    from safetensors.torch import load_file

    return plain, decoded({name: tensor.clone() for name, tensor in load_file(folder / TENSORS).items()})


def read_untrusted(folder: Path, largest: int) -> tuple[Any, dict[str, Tensor]]:
    """Return what a method's process wrote to a folder of its own, to which it cannot write any more.

    Args:
        folder: The folder.
        largest: Bytes of tensors that are read.

    Raises:
        OSError, ValueError: It is no such thing. A link, which would have us read for it what it must not, is none.
    """
    from safetensors import SafetensorError

    plain = json.loads(_content(folder / PLAIN, LONGEST))
    if not os.path.lexists(folder / TENSORS):
        return plain, {}
    from safetensors.torch import load

    try:
        return plain, decoded(load(_content(folder / TENSORS, largest)))
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _content(path: Path, largest: int) -> bytes:
    place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(place, "rb") as file:
        of = os.fstat(place)
        if not stat.S_ISREG(of.st_mode) or of.st_nlink != 1 or of.st_size > largest:
            raise ValueError(f"{path.name} is no file of its own, or too long")
        return file.read()
