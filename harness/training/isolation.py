"""The random state that a training runs under."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
