"""Record steps as CUDA graphs, for `harness.training.engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress

import torch

from harness.training.engine import CannotRecord, Graph, Randomness, Record, recording


def recorder(device: torch.device) -> Record | None:
    """Return a recorder for a device; None if its steps run unrecorded."""
    return CUDAGraphs() if device.type == "cuda" else None


class CUDAGraphs:
    """Records steps as CUDA graphs. All graphs of a training, or of a group, share one memory pool.

    This is safe. The weights, the optimiser's state and the inputs are stored outside the pool. A graph computes
    everything else before it reads it.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._main = torch.cuda.Stream()
        self._streams: list[torch.cuda.Stream] = []  # of the steps; blocks of the pool belong to streams

    def __call__(self, steps: Sequence[tuple[Randomness | None, Callable[[], None]]]) -> Graph:
        """Record the steps, each on its own CUDA stream, and return the graph. The steps do not run yet.

        Raises:
            CannotRecord: A step waits for the GPU, makes tensors on the CPU, or draws random numbers there.
        """
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # later ones find the generators by themselves, and warn
            for randomness, _ in steps:
                if randomness is not None:
                    graph.register_generator_state(randomness.generator)
        self._streams += [torch.cuda.Stream() for _ in range(len(steps) - len(self._streams))]
        self._main.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._main):
                # Only calls in this thread can break the recording: another one may be loading data.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    self._capture(steps)
                except BaseException:
                    with suppress(RuntimeError):  # says that the capture failed, and not why
                        graph.capture_end()
                    raise
                graph.capture_end()
        except RuntimeError as error:
            raise CannotRecord(str(error).partition("\n")[0]) from error
        torch.cuda.current_stream().wait_stream(self._main)
        return graph

    def _capture(self, steps: Sequence[tuple[Randomness | None, Callable[[], None]]]) -> None:
        for stream, (randomness, step) in zip(self._streams, steps, strict=False):
            stream.wait_stream(self._main)
            with torch.cuda.stream(stream), randomness or nullcontext(), recording():
                step()
        for stream in self._streams[: len(steps)]:
            self._main.wait_stream(stream)
