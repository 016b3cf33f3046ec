"""Is the bound of `canaries judge` right on models that never saw a canary, and how large is it on models that did?

Null, on digits-mlp: one model is trained without the source; its losses of 200 canaries are judged under many draws of
the coins, none of which the model can know, so that this is exact. Then fresh models, each with canaries of its own,
planted and judged by the real functions.

Power, on digits-cnn: for each seed, 400 of the 1,400 training images are the source, written as a folder of pictures.
`plant` puts canaries into it; P is trained on all, R without the source; a method removes the source, canaries and all,
from P. Each model is judged by its losses of all canaries. Seeds from 1,000, which no audit uses.

    python ci/benchmarks/canaries.py --json ci/benchmarks/results/canaries.json --figure docs/canaries.svg
        [--seeds 5] [--draws 2000] [--fresh 20] [--numbers 25 50 100 200 400]
    python ci/benchmarks/canaries.py --json ci/benchmarks/results/canaries.json --figure docs/canaries.svg --draw-only
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from harness import Data, Task, derive, fit, forget_block, registry
from harness.canaries import Secret, candidates, judge, plant
from harness.canaries.judgement import guesses_of
from harness.canaries.secret import toss
from harness.report.document import versions, write_text
from harness.report.svg import Scale, drawing, mark, palette, path, style, words
from harness.statistics import clopper_pearson
from harness.training.unlearning import unlearn

FIRST_SEED, SOURCE, BUDGET, ALPHA, DELTA = 1000, 400, 0.1, 0.05, 1e-5
#: What is judged, with its mark and colour in the figure, and its name there.
ARMS = {
    "P": ("poisoned", "P, nothing removed"), "scrub": ("unlearned", "scrub"), "short": ("ERROR", "short"),
    "R": ("retrained", "R, retrained without the source"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--fresh", type=int, default=20)
    parser.add_argument("--numbers", type=int, nargs="+", default=[25, 50, 100, 200, 400])
    parser.add_argument("--draw-only", action="store_true", help="draw what the JSON file has; compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.draw_only:
        begun = time.process_time()
        found = {
            "versions": versions(), "machine": platform.processor() or platform.machine(), "alpha": ALPHA,
            "delta": DELTA, "null": null(options.draws, options.fresh), "power": power(options.seeds, options.numbers),
        }  # fmt: skip
        found["cpu_seconds"] = round(time.process_time() - begun, 1)
        write_text(options.json, json.dumps(found, indent=1) + "\n")
    if options.figure:
        write_text(options.figure, figure(json.loads(options.json.read_text(encoding="utf-8"))["power"]))


def null(draws: int, fresh: int) -> dict[str, Any]:
    """Return how often the bound exceeds 0 for models that never saw a canary."""
    task: Task = registry.resolve("task", "digits-mlp").value
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(Path(folder), task, FIRST_SEED, 200)
        losses = trial.losses(trial.trained(trial.rest))
        ranks = sorted(losses, key=losses.__getitem__)
        hits = []
        for draw in range(draws):
            coins = dict(zip(sorted(losses), toss(f"null {draw}", len(losses)), strict=True))
            tests = guesses_of([coins[name] for name in ranks], ALPHA, DELTA)
            hits.append(max(test.epsilon for test in tests) > 0)
    others = []
    for seed in range(FIRST_SEED + 1, FIRST_SEED + 1 + fresh):
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(Path(folder), task, seed, 200)
            others.append(judge(trial.secret, trial.losses(trial.trained(trial.rest))).shown)
    of_200 = sum(hits[:200])
    result = {
        "task": "digits-mlp", "canaries": 200, "draws": draws, "above_0": sum(hits),
        "interval": clopper_pearson(sum(hits), draws), "above_0_in_first_200": of_200,
        "interval_of_first_200": clopper_pearson(of_200, min(200, draws)), "fresh_models": fresh,
        "fresh_above_0": sum(others), "fresh_interval": clopper_pearson(sum(others), fresh),
    }  # fmt: skip
    print(result, flush=True)
    return result


def power(seeds: int, numbers: Sequence[int]) -> dict[str, Any]:
    """Return the bound of each arm by number of canaries, one for each seed."""
    task: Task = registry.resolve("task", "digits-cnn").value
    bounds: dict[str, dict[str, list[float]]] = {arm: {str(number): [] for number in numbers} for arm in ARMS}
    source_bounds: dict[str, dict[str, list[float]]] = {arm: {str(number): [] for number in numbers} for arm in ARMS}
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        retrained: nn.Module | None = None
        for number in numbers:
            with tempfile.TemporaryDirectory() as folder:
                trial = Trial(Path(folder), task, seed, number)
                models = {"P": trial.trained(joined(trial.rest, trial.own))}
                retrained = models["R"] = retrained or trial.trained(trial.rest)
                for name in ("scrub", "short"):
                    models[name] = trial.unlearned(name, models["P"])
                for arm, model in models.items():
                    judged = judge(trial.secret, trial.losses(model), alpha=ALPHA, delta=DELTA)
                    bounds[arm][str(number)].append(round(judged.epsilon, 4))
                    source_bounds[arm][str(number)].append(round(judged.source_epsilon, 4))
                    accuracy[arm].append(round(trial.accuracy(model), 4))
            print(seed, number, {arm: bounds[arm][str(number)][-1] for arm in ARMS}, flush=True)
    mean = {arm: round(fmean(of), 4) for arm, of in accuracy.items()}
    return {
        "task": "digits-cnn", "seeds": [FIRST_SEED, FIRST_SEED + seeds - 1], "n": seeds, "source": SOURCE,
        "budget": BUDGET, "epsilon": bounds, "source_epsilon": source_bounds, "mean_accuracy": mean,
    }  # fmt: skip


class Trial:
    """One seed: digits with a source into which canaries were planted.

    Attributes:
        rest: The training images that are not of the source.
        own: Those of the source, with the canaries that are in.
        secret: The list of all canaries.
    """

    def __init__(self, folder: Path, task: Task, seed: int, number: int) -> None:
        self.task, self.seed, self.split = task, seed, task.load(None)
        train = self.split.train
        source = forget_block(len(train), SOURCE / len(train), seed)
        keep = torch.ones(len(train), dtype=torch.bool)
        keep[source] = False
        self.rest = train.subset(keep.nonzero().squeeze(1))
        write_pictures(train.subset(source), folder / "source")
        self.secret: Secret = plant(
            folder / "source", folder / "planted", folder / "secret.json", number=number, seed=derive("canaries", seed)
        )
        candidates(self.secret, folder / "candidates")
        self.own, _ = read_pictures(folder / "planted")
        self.candidates, self.ids = read_pictures(folder / "candidates")

    def trained(self, data: Data) -> nn.Module:
        """Return a model that was trained by the task's recipe."""
        torch.manual_seed(self.seed)
        model = self.task.new_model()
        order = torch.Generator().manual_seed(self.seed)
        fit(self.task, model, data.batches(self.task.batch_size, self.task.epochs, order))
        return model

    def unlearned(self, method: str, poisoned: nn.Module) -> nn.Module:
        """Return what a method makes of P if it is to remove the source, canaries and all."""
        registered = registry.resolve("unlearner", method)
        state = {name: tensor.clone() for name, tensor in poisoned.state_dict().items()}
        return unlearn(
            registered,
            self.task,
            state,
            self.rest,
            self.own,
            budget=BUDGET * self.task.epochs,
            seed=self.seed,
            operations=False,
        )[0]

    def losses(self, model: nn.Module) -> dict[str, float]:
        """Return the loss of every canary, by id."""
        model.eval()
        with torch.no_grad():
            scores = self.task.logits(model, self.candidates.batch(torch.arange(len(self.candidates))))
        losses = nn.functional.cross_entropy(scores, self.candidates.labels, reduction="none")
        return dict(zip(self.ids, losses.tolist(), strict=True))

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy on the test set."""
        model.eval()
        test = self.split.test
        with torch.no_grad():
            scores = self.task.logits(model, test.batch(torch.arange(len(test))))
        return float((scores.argmax(1) == test.labels).double().mean())


def joined(*parts: Data) -> Data:
    """Return several data sets as one."""
    return Data({"image": torch.cat([part.inputs["image"] for part in parts])}, torch.cat([p.labels for p in parts]))


def write_pictures(data: Data, folder: Path) -> None:
    """Write digits as pictures in class folders."""
    pixels = (data.inputs["image"][:, 0] * 255).round().byte().numpy()
    for i, (image, label) in enumerate(zip(pixels, data.labels.tolist(), strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{i:04}.png")


def read_pictures(folder: Path) -> tuple[Data, list[str]]:
    """Return digits from class folders, and the names of their files without suffix."""
    files = sorted(folder.glob("*/*.png"))
    pixels = np.stack([np.asarray(Image.open(file), np.float32) for file in files])
    labels = torch.tensor([int(file.parent.name) for file in files])
    return Data({"image": torch.from_numpy(pixels)[:, None] / 255}, labels), [file.stem for file in files]


def figure(found: Mapping[str, Any]) -> str:
    """Return the figure: means over seeds, and the range from the smallest to the largest."""
    numbers = list(found["epsilon"]["P"])
    left, right, top, bottom, width = 48, 470, 44, 270, 724
    most = max(max(of) for arm in found["epsilon"].values() for of in arm.values())
    x, y = Scale(-0.3, len(numbers) - 0.7, left, right), Scale(0, 1.05 * most, bottom, top)
    parts = [f'<rect width="{width}" height="{bottom + 74}" fill="#fff"/>']
    for tick in y.ticks():
        parts += [
            path(f"M{left} {y(tick):.1f}H{right}", "rule"),
            words(left - 8, y(tick) + 4, f"{tick:g}", "end", "soft"),
        ]
    for i, number in enumerate(numbers):
        parts.append(words(x(i), bottom + 18, number, "middle", "soft"))
    parts.append(words((left + right) / 2, bottom + 38, "number of canaries, in and out", "middle", "soft"))
    parts.append(words(left - 40, top - 22, "epsilon of one canary is at least"))
    told = []
    for shift, (arm, (kind, name)) in enumerate(ARMS.items()):
        at = [x(i) + 7 * (shift - 1.5) for i in range(len(numbers))]
        values = [found["epsilon"][arm][number] for number in numbers]
        means = [y(fmean(of)) for of in values]
        line = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(at, means, strict=True))
        colour = {"poisoned": "fail", "retrained": "pass", "unlearned": "ink", "ERROR": "error"}[kind]
        parts.append(f'<path d="{line}" class="c-{colour} thin" style="fill:none"/>')
        for a, b, of in zip(at, means, values, strict=True):
            parts.append(path(f"M{a:.1f} {y(min(of)):.1f}V{y(max(of)):.1f}", f"c-{colour} thin"))
            parts.append(mark(kind, a, b, 4.5))
        key = top + 10 + 24 * shift
        parts += [mark(kind, right + 30, key, 4.5), words(right + 44, key + 4, name)]
        told.append(f"{name}: " + ", ".join(f"{fmean(of):.2f} with {n}" for n, of in zip(numbers, values, strict=True)))
    note = f"Marks: means over n = {found['n']} seeds; lines: smallest to largest. 95 % confidence each, delta = 1e-5."
    parts.append(words(left - 40, bottom + 62, note, classes="soft"))
    body = drawing(width, bottom + 74, "canary-bounds", "Lower bound on epsilon by the number of canaries",
                   "; ".join(told) + ".", parts)  # fmt: skip
    return body.replace("<title ", f"<style>svg{{{palette()}}}{style()}</style><title ", 1) + "\n"


if __name__ == "__main__":
    main()
