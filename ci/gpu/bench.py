"""What the parts of the check of a GPU work with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
#: Seconds that the whole check may take, unless it is told how long the audit may.
WHOLE = 240


@dataclass(frozen=True)
class Size:
    """How large the parts are.

    Attributes:
        matrix: Rows and columns of the matrices that are multiplied.
        images: Training images, and a fifth as many to test on.
        width: Channels of the network's first stage.
        batch_size: Examples per step.
        groups: Group sizes to time.
        epochs: Of the surrogate in `brew`, enough for it to learn something; also the fewest of the audit.
        steps: Steps of the brew.
        digits: The task of `digits`, and the first of the two of `together`.
        language_steps: Steps that `language` times of each way.
        methods, poisons, seeds: What `audit` audits.
        shortest: Seconds that the audit has at least.
        reviews: Training reviews, and a fifth as many to test on.
        gpt2: Fields of the language model.
    """

    matrix: int
    images: int
    width: int
    batch_size: int
    groups: tuple[int, ...]
    epochs: int
    steps: int
    digits: str
    language_steps: int
    methods: tuple[str, ...]
    poisons: tuple[str, ...]
    seeds: int
    shortest: float
    reviews: int
    gpt2: str

    def task(self, epochs: int) -> str:
        """Return the spec of the task, trained for so many passes."""
        fields = {"epochs": epochs, "train_size": self.images, "test_size": self.images // 5, "width": self.width}
        fields |= {"batch_size": self.batch_size}
        return "cifar10-resnet18:" + ",".join(f"{name}={value}" for name, value in fields.items())


def targeted(steps: int) -> str:
    """Return the spec of the poison that is crafted."""
    return f"targeted:fraction=0.015,eps=0.0627,steps={steps},surrogates=1,targets=2"


LARGE = Size(
    matrix=8192, images=10_000, width=64, batch_size=128, groups=(1, 2, 4, 8), epochs=5, steps=50,
    digits="digits-cnn", language_steps=40, reviews=2_000, methods=("scrub", "gd", "neggrad_plus", "short"), seeds=5,
    shortest=60,
    poisons=("gaussian:fraction=0.1,sd=0.14", "backdoor:fraction=0.1", targeted(50)),
    gpt2="layers=24,width=1024,heads=16,vocabulary=50257,length=512,batch_size=16",
)  # fmt: skip
QUICK = Size(
    matrix=256, images=100, width=2, batch_size=25, groups=(1, 2), epochs=8, steps=2,
    digits="digits-cnn:epochs=1", language_steps=2, reviews=50, methods=("gd",), poisons=("gaussian:sd=0.14",), seeds=3,
    shortest=600,
    gpt2="layers=1,width=16,heads=2,vocabulary=300,length=32,batch_size=10",
)  # fmt: skip


@dataclass
class Bench:
    """What the parts work with.

    Attributes:
        device: Where.
        size: How large.
        data: Folder with the data set in ``cifar10``.
        scratch: A folder that is removed afterwards.
        minutes: What the audit may take; None for what is left of `WHOLE`.
        store: Where it keeps its models, and how many epochs they are trained for.
        began: When the check did, on the clock of `time.monotonic`.
        rate: FLOP/s of matrix products in bf16, once `matmul` measured it.
        images_per_second: Of training, all models together, once `throughput` measured it.
    """

    device: torch.device
    size: Size
    data: Path
    scratch: Path
    minutes: float | None
    store: Path
    began: float
    rate: float | None = None
    images_per_second: float | None = None


def run_pytest(bench: Bench, *arguments: str, limit: float = 600) -> subprocess.CompletedProcess[str]:
    """Run pytest in the checkout; without a GPU, if none is checked."""
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if bench.device.type == "cpu" else {})}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit, check=False
    )  # fmt: skip


def tail(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last lines of what a command printed."""
    return "\n".join((done.stdout + done.stderr).splitlines()[-25:])


def require(condition: bool, found: str) -> None:
    """Raise RuntimeError with what was found, unless the condition holds."""
    if not condition:
        raise RuntimeError(found)


def now(bench: Bench) -> float:
    """Return the time in seconds, once the device has done all that it was given."""
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
