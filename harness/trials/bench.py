"""The store, the device, the data and the models in memory, shared by all that makes a part of a trial."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import DeviceLost, UnlearningError
from harness.calling import calling, out_of_memory
from harness.cells import Registered, Trial
from harness.conventions import has_own_loop
from harness.store.artefacts import Artefact, Gone, Lock, Make, Store, default_root, key_of
from harness.trials.cache import Cache
from harness.trials.datasets import Datasets
from harness.trials.devices import answers, device_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness.trials.pace import Pace

#: Names the folder in which torch's compiler keeps what it made.
INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
#: Called with (trial, what is being trained, passes done, passes in all).
Show = Callable[[Trial, str, int, int], None]


class Bench:
    """Where trials are made. Nothing imports torch before something has to be made.

    Args:
        store: Where artefacts live.
        kind: Kind of the device that models are trained on, ``"cpu"`` or ``"cuda"``.
        budget: Compute an unlearner may use, as a fraction of retraining.
        folder: Data sets for tasks that read files, or None.
        show: Told of the progress of trainings.
        made_on: Kind of the device that artefacts were made on, to read them elsewhere; None for ``kind``.
        share: Part of the GPU's memory that this process may fill, in (0, 1].
        timeout: Seconds that an unlearner has; None for a multiple of what training took.
        group: Models that are trained side by side; None for 1 on a CPU, and on a GPU the number that trains fastest.
    """

    def __init__(
        self,
        store: Store,
        kind: str,
        budget: float,
        folder: Path | None,
        show: Show,
        made_on: str | None = None,
        share: float = 1.0,
        timeout: float | None = None,
        group: int | None = None,
    ) -> None:
        self.store = store
        self.kind = kind
        self.budget = budget
        self.timeout = timeout
        self.group = 1 if group is None and kind == "cpu" else group
        self.show = show
        self.made_on = made_on or kind
        self._share = share
        self._found: Cache[str, Artefact] = Cache(4096)
        self._in_memory: Cache[tuple[Registered, str], nn.Module] = Cache(6)
        self._paces: Cache[Registered, Pace] = Cache(16)
        self._datasets = Datasets(store, folder, self.device_of)
        self.split = self._datasets.split

    @cached_property
    def device(self) -> torch.device:
        """The device itself."""
        return device_of(self.kind, self._share)

    def device_of(self, task: Registered) -> torch.device:
        """Return where a task's data and models are: a training loop of its own moves them itself, from the CPU."""
        import torch

        return torch.device("cpu") if has_own_loop(task.value) else self.device

    def on(self, task: Registered) -> dict[str, Any]:
        """Return what every artefact of a task depends on: the task, its data, the kind of device."""
        return {"task": task.identity, "data": self._datasets.fingerprint(task), "device": self.made_on}

    def pace(self, task: Registered) -> Pace:
        """Return how fast a task trains here; measured once in a process."""

        def measured() -> Pace:
            from harness.trials.pace import pace_of

            return pace_of(task.value, self.split(task).train, self.group, self._share)

        return self._paces.get(task, measured)

    def obtain(
        self,
        kind: str,
        of: Mapping[str, Any],
        make: Make,
        trial: Trial,
        check: Callable[[Artefact], object] = lambda found: None,
        lock: Lock | None = None,
    ) -> Artefact:
        """Return an artefact, made on the task's threads if nobody has made it; as `Store.obtain`."""

        def computed() -> tuple[Mapping[str, Any], Mapping[str, Tensor] | None]:
            with self.computing(trial):
                info, tensors = make()
                return info, tensors and {name: tensor.detach().cpu() for name, tensor in tensors.items()}

        get: Callable[[], Artefact] = lambda: self.store.obtain(kind, of, computed, trial.id, check, lock)  # noqa: E731
        return self._found.get(key_of(kind, of), get)

    def tensors(self, artefact: Artefact, use: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
        """Return an artefact's tensors once they were put to use.

        Raises:
            Gone: They are damaged, and removed; or they cannot be read.
            DeviceLost: The GPU no longer responds.
            Exception: They were made by this run and cannot be used: an error of ours, or of a plugin. Or memory ran
                out, for which no file is to blame.
        """
        tensors = self.store.tensors(artefact)
        if tensors is None:
            self._found.clear()  # what was found before may be gone, too: it is looked for again
            raise Gone(artefact.key)
        try:
            use(tensors)
            return tensors
        except Exception as error:
            self._check_device(error, artefact.made["trial"])
            if artefact.made["run"] == self.store.run or out_of_memory(error):
                raise
        self.discard(artefact)
        raise Gone(artefact.key)

    def discard(self, artefact: Artefact) -> None:
        """Remove an artefact that turned out to be damaged; what was found before is looked for again."""
        self.store.discard(artefact)
        self._found.clear()

    def model(self, task: Registered, artefact: Artefact) -> nn.Module:
        """Return a stored model in eval mode, on the device. It is shared: do not change it.

        Raises:
            Gone: It is damaged, and removed.
        """

        def load() -> nn.Module:
            from harness.training.isolation import isolated_rng

            with isolated_rng(0), calling(f"the task {task.id!r}"):
                model: nn.Module = task.value.new_model().to(self.device_of(task))
            self.tensors(artefact, model.load_state_dict)
            return model

        return self._in_memory.get((task, str(artefact.blob)), load).eval()

    def reload(self, task: Registered, artefact: Artefact) -> None:
        """Read a model anew when it is next asked for: somebody may have changed it."""
        self._in_memory.drop((task, str(artefact.blob)))

    @contextmanager
    def _compiled_kept(self) -> Iterator[None]:
        """Keep what `torch.compile` compiles in the user's cache, where the next process finds it.

        It is executed, so it is in no store, which others may write to. A folder that the user has named stays:
        ``TORCHINDUCTOR_CACHE_DIR``. So does torch's own if that in the cache cannot be made or written.
        """
        root = default_root()
        folder = root.with_name(f"{root.name}-compiled")
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if INDUCTOR in os.environ or not (folder.is_dir() and os.access(folder, os.W_OK)):
            yield
            return
        os.environ[INDUCTOR] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(INDUCTOR, None)

    @contextmanager
    def computing(self, trial: Trial) -> Iterator[None]:
        """Compute on the task's number of threads, which has a say in sums; report in words that memory ran out."""
        import torch

        task = trial.cell.task
        threads = torch.get_num_threads()
        torch.set_num_threads(task.value.threads)
        compiling = self._compiled_kept() if getattr(task.value, "compiled", False) else nullcontext()
        try:
            with compiling:
                yield
        except torch.OutOfMemoryError as error:
            self._in_memory.clear()
            torch.cuda.empty_cache()
            sizes = " or ".join(name for name in ("batch_size", "width", "train_size") if name in task.fields)
            lower = f"lower {sizes} (--task={task.name}:FIELD=VALUE), or " if sizes else ""
            raise UnlearningError(
                f"the GPU ran out of memory in {trial.id}; {lower}run fewer workers (-n), train fewer models at a time "
                f"(--audit-group=1), or run on the CPU (--audit-device=cpu)"
            ) from error
        except RuntimeError as error:
            self._check_device(error, trial.id)
            raise
        finally:
            torch.set_num_threads(threads)

    def _check_device(self, error: Exception, after: str) -> None:
        """Raise `DeviceLost` if an error comes of a GPU that no longer responds."""
        if self.kind == "cuda" and isinstance(error, RuntimeError) and not answers(self.device):
            raise DeviceLost(f"the GPU no longer responds after {after}: {error}") from error
