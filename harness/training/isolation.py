"""The random state and the global settings that a training runs under."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from harness.api import ContractError


@contextmanager
def same_settings(who: str) -> Iterator[None]:
    """Refuse code that leaves torch's global settings changed, under which later models would be trained.

    Raises:
        ContractError: A setting was changed; it is put back.
    """
    before = _settings()
    changed: list[str] = []
    try:
        yield
    finally:  # what raises must not leave them to later models either
        changed += [name for name, value in _settings().items() if value != before[name]]
        if changed:
            torch.set_default_dtype(before["default dtype"])
            torch.use_deterministic_algorithms(before["deterministic algorithms"])
            torch.set_float32_matmul_precision(before["matmul precision"])
            torch.set_num_threads(before["threads"])
    if changed:
        raise ContractError(
            f"{who} left torch's {' and '.join(changed)} changed; it must put back what it sets", "settings"
        )


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators, and put their states back afterwards."""
    numpy = sys.modules.get("numpy")
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy.random.get_state() if numpy else None
    cuda_state = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    random.seed(seed)
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # it would keep a traceback for every device that might be asked for later, and is slow at that
        torch.default_generator.manual_seed(seed)
    if numpy:
        numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if cuda_state:
            torch.cuda.set_rng_state_all(cuda_state)
