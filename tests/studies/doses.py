"""Methods with fields to search, and the search of them; imports nothing that stands elsewhere in another process."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch

from harness import registry
from harness.api import Search, UnlearningError
from harness.studies.tuning import tune
from harness.training.loop import fit
from harness.trials.lab import Lab

TINY = registry.resolve("task", "tiny:Tiny")
POISONS = [registry.resolve("poison", "backdoor:size=1")]


@dataclass(frozen=True)
class Dose:
    """Descends on the retain set for a share of the budget; refuses more than .9 of it, and spends beyond it at .8."""

    lr: Annotated[float, Search(1e-3, 1.0, log=True)] = 0.1
    share: Annotated[float, Search(choices=(0.2, 0.5, 0.8, 0.95))] = 0.5
    passes: Annotated[int, Search(1, 2)] = 1
    fixed: float = 3.0

    reads_forget: ClassVar[bool] = False

    def __call__(self, model, request):
        if "DIE_AFTER" in os.environ:  # a marked file is a call; the process is killed in the middle of the last
            calls = Path(os.environ["DIE_AFTER"])
            calls.write_text(calls.read_text() + ".")
            if len(calls.read_text()) == 12:
                os.kill(os.getpid(), signal.SIGKILL)
        if self.fixed == 9 and self.lr == 0.1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.share > 0.9:
            raise UnlearningError("too large a share")
        examples = int(request.affordable() * (self.share if self.share < 0.8 else 1.5))
        optimizer = torch.optim.SGD(model.parameters(), self.lr)
        for batch in request.batches("retain", examples=examples):
            optimizer.zero_grad()
            request.loss(model, batch).backward()
            optimizer.step()
        return model


@dataclass(frozen=True)
class Fails:
    """Raises an error of a kind from its third call on; leaves the model as it is."""

    lr: Annotated[float, Search(1e-3, 1.0, log=True)] = 0.1
    kind: str = "none"

    asked: ClassVar[dict[float, int]] = {}

    def __call__(self, model, request):
        self.asked[self.lr] = self.asked.get(self.lr, 0) + 1
        if self.asked[self.lr] >= 3 and self.lr == 0.1:
            if self.kind == "disk":
                raise OSError(28, "No space left on device")
            if self.kind == "memory":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            if self.kind == "ctrl-c":
                raise KeyboardInterrupt
            if self.kind == "own":
                raise ValueError("no")
        return model


@dataclass(frozen=True)
class Kinds:
    """Retrains, does nothing, wrecks the model, or is not finished."""

    kind: Annotated[str, Search(choices=("fresh", "nothing", "wrecked", "unfinished"))] = "fresh"

    from_scratch: ClassVar[bool] = False

    def __call__(self, model, request):
        if self.kind == "unfinished":
            raise RuntimeError("it is not\nfinished")
        if self.kind == "fresh":
            model = request.new_model()
            fit(request, model, request.batches("retain", request.epochs))
        return request.new_model() if self.kind == "wrecked" else model


@dataclass(frozen=True)
class Dear:
    """Descends on a twentieth of the budget's examples; slowly, it takes CPU time beside."""

    way: Annotated[str, Search(choices=("lean", "slow"))] = "lean"

    reads_forget: ClassVar[bool] = False

    def __call__(self, model, request):
        optimizer = torch.optim.SGD(model.parameters(), 1e-3)
        for batch in request.batches("retain", examples=request.affordable() // 20):
            optimizer.zero_grad()
            request.loss(model, batch).backward()
            optimizer.step()
        end = time.process_time() + 0.3 * (self.way == "slow")
        while time.process_time() < end:
            pass
        return model


def opened(store, **options):
    return Lab.open(store, **{"device": "cpu", "budget": 0.2, **options})


def search(lab, settings, spec="doses:Dose"):
    """What was tuned, and what was tried or measured again on the way."""
    seen = []
    return tune(registry.resolve("unlearner", spec), TINY, POISONS, lab, settings, seen.append), seen
