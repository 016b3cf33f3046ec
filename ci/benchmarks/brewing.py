"""Our gradient matching beside that of the Adversarial Robustness Toolbox: same model, data, targets, radius and steps.

For each seed one surrogate is trained on clean digits. Both attacks get it, the same test points as targets, the same
number of poison images of the same class, the same radius and the same number of full-batch steps from one start; then
a victim is trained on what each of them made, from one initialisation. Which images of the class are perturbed each
attack draws itself. The toolbox's Adam moves the argument of a tanh that bounds its noise; it gets the rates of its
defaults, at the same shares of its steps.

Needs more than the project does: ``pip install adversarial-robustness-toolbox``.

    python ci/benchmarks/brewing.py [--seeds 10] [--first 3200] [--steps 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from harness import registry
from harness.api import Planted, Task
from harness.report.document import versions
from harness.training.data import Split
from harness.training.isolation import isolated_rng
from harness.training.loop import train
from poisons.targeted import Targeted

TASK = "digits-cnn"
#: Rates of the toolbox's defaults, which fall after these shares of its 250 steps.
RATES, SHARES = [1e-1, 1e-2, 1e-3, 1e-4], [100 / 250, 150 / 250, 200 / 250, 220 / 250]


def theirs(model: nn.Module, ours: Planted, attack: Targeted, split: Split, rate: float) -> Planted:
    """Return what the toolbox plants for the targets of ours."""
    from art.attacks.poisoning.gradient_matching_attack import GradientMatchingAttack
    from art.estimators.classification import PyTorchClassifier

    images, labels = split.train.inputs["image"].numpy(), split.train.labels.numpy()
    classifier = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=images.shape[1:], nb_classes=10, clip_values=(0, 1),
        device_type="cpu",
    )  # fmt: skip
    brew = GradientMatchingAttack(
        classifier, (len(ours.forget) + 0.5) / len(labels), attack.eps, max_trials=1, max_epochs=attack.steps,
        learning_rate_schedule=([rate * r for r in RATES], [round(share * attack.steps) for share in SHARES]),
        batch_size=len(ours.forget), verbose=0,
    )  # fmt: skip
    targets = ours.secrets["targets"]
    wanted = np.full(len(targets), int(ours.secrets["adversarial"]))
    poisoned, _ = brew.poison(split.test.inputs["image"][targets].numpy(), wanted, images, labels)
    forget = torch.from_numpy((poisoned != images).any(axis=(1, 2, 3)).nonzero()[0])
    return Planted(forget, {"image": torch.from_numpy(poisoned)[forget]}, split.train.labels[forget], ours.secrets)


def outcome(planted: Planted, attack: Targeted, task: Task, split: Split, seed: int) -> dict[str, float]:
    """Train a victim and say what became of the targets."""
    everything = torch.ones(len(split.train), dtype=torch.bool)
    victim, _ = train(task, split.train.poisoned_with(planted), everything, seed)
    reading = attack.probe(victim.eval(), planted, task, split)
    change = (planted.inputs["image"] - split.train.inputs["image"][planted.forget]).abs().max()
    return {"log_odds": reading.value, **reading.details, "points": len(planted.forget), "change": float(change)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="surrogates, each with a brew of both and two victims")
    parser.add_argument("--first", type=int, default=3200, help="first seed")
    parser.add_argument("--steps", type=int, default=100, help="steps of both attacks")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the toolbox's rates")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    try:
        import art  # noqa: F401
    except ImportError:
        parser.error("this benchmark compares with a library: pip install adversarial-robustness-toolbox")

    torch.set_num_threads(1)
    task = registry.resolve("task", TASK).value
    split = task.load(None)
    attack = Targeted(fraction=0.05, steps=options.steps, surrogates=1)
    found: dict[str, list[dict[str, float]]] = {"ours": [], "toolbox": []}
    for seed in range(options.first, options.first + options.seeds):
        everything = torch.ones(len(split.train), dtype=torch.bool)
        model = train(task, split.train, everything, seed + 10**6)[0].eval()
        started = time.perf_counter()
        ours = attack.plant(task, split, seed, lambda _, model=model: model)
        between = time.perf_counter()
        with isolated_rng(seed):
            other = theirs(model, ours, attack, split, options.rate)
        seconds = {"ours": between - started, "toolbox": time.perf_counter() - between}
        for name, planted in (("ours", ours), ("toolbox", other)):
            found[name].append({**outcome(planted, attack, task, split, seed), "seconds": seconds[name]})
        latest = {name: found[name][-1] for name in found}
        print(f"seed {seed}: " + "   ".join(f"{name} {_line(each)}" for name, each in latest.items()), flush=True)
    summary: dict[str, Any] = {
        name: {
            "success": fmean(each["fraction_hit"] for each in runs),
            "log_odds": fmean(each["log_odds"] for each in runs),
            "log_odds_sd": stdev([each["log_odds"] for each in runs]),
            "seconds_per_surrogate": median(each["seconds"] for each in runs),
        }
        for name, runs in found.items()
    }
    ratio = summary["toolbox"]["seconds_per_surrogate"] / summary["ours"]["seconds_per_surrogate"]
    for name, each in summary.items():
        print(f"{name:8s} {_line({**each, 'fraction_hit': each['success'], 'seconds': each['seconds_per_surrogate']})}")
    print(f"the toolbox takes {ratio:.1f} times as long (medians, n = {options.seeds})")
    if options.json:
        figures = {
            "task": TASK,
            "attack": {
                "fraction": attack.fraction,
                "eps": attack.eps,
                "steps": attack.steps,
                "targets": attack.targets,
            },
            "toolbox_rates": [options.rate * rate for rate in RATES],
            "n": options.seeds,
            "first_seed": options.first,
            "summary": {**summary, "toolbox_over_ours_seconds": ratio},
            "runs": found,
            "machine": f"{platform.machine()}, 1 thread, CPU",
            "versions": {**versions(), "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")},
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


def _line(each: dict[str, float]) -> str:
    return f"hit {each['fraction_hit']:.2f}, log-odds {each['log_odds']:+.2f}, {each['seconds']:.1f} s"


if __name__ == "__main__":
    main()
