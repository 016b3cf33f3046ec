"""Steps recorded as CUDA graphs: `harness.training.engine` on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from harness.training.engine import CannotRecord, Graph, Randomness, Record, host_state, set_host_state


def recorder(device: torch.device) -> Record | None:
    """Return what records steps on a device; None where they are called."""
    return CUDAGraphs() if device.type == "cuda" else None


class CUDAGraphs:
    """Records steps as CUDA graphs. Those of one training, or of several in hand together, share their memory.

    They may: each computes anew all that it reads, but for the weights, the optimiser's state and the inputs, which
    are not the graphs' own.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, steps: Sequence[tuple[Randomness | None, Callable[[], None]]]) -> Graph:
        """Return a graph of the steps, each on a stream of its own. Nothing is computed yet.

        Raises:
            CannotRecord: A step waits for the GPU, makes tensors on the host, or draws random numbers there.
        """
        graph = torch.cuda.CUDAGraph()
        streams = [torch.cuda.Stream() for _ in steps]
        for randomness, _ in steps:  # every graph knows the device's default generator
            if randomness is not None:
                graph.register_generator_state(randomness.generator)
        before = host_state()
        main = torch.cuda.Stream()
        main.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(main):
                # Errors of this thread alone: another one may be loading data.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    for stream, (randomness, step) in zip(streams, steps, strict=True):
                        stream.wait_stream(main)
                        with torch.cuda.stream(stream), randomness or nullcontext():
                            step()
                    for stream in streams:
                        main.wait_stream(stream)
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            set_host_state(before)
            raise CannotRecord(str(error).partition("\n")[0]) from error
        if _differs(before, host_state()):
            set_host_state(before)
            raise CannotRecord("they draw random numbers on the host")
        torch.cuda.current_stream().wait_stream(main)
        return graph


def _differs(state: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    (python, of_torch, of_numpy), (python2, of_torch2, of_numpy2) = state, other
    if python != python2 or not torch.equal(of_torch, of_torch2):
        return True
    if of_numpy is None or of_numpy2 is None:
        return of_numpy is not of_numpy2
    return any((a != b).any() if hasattr(a, "any") else a != b for a, b in zip(of_numpy, of_numpy2, strict=True))
