"""Draw what each poison does to images, beside this file: ``python docs/draw_poisons.py``."""

from __future__ import annotations

from pathlib import Path

import harness

#: Poisons with the task on which they are drawn, by the name of the picture.
DRAWN = {
    "backdoor": ("backdoor", "digits-cnn"),
    "backdoor_blended": ("backdoor:trigger=blended", "digits-cnn"),
    "backdoor_sample": ("backdoor:trigger=sample", "digits-cnn"),
    "gaussian": ("gaussian", "digits-cnn"),
    "confusion": ("confusion", "digits-cnn"),
    "label_noise": ("label-noise", "digits-cnn"),
    "targeted": ("targeted", "digits-cnn"),
    "sleeper_agent": ("sleeper-agent", "digits-cnn"),
    "camouflaged": ("camouflaged", "digits-cnn"),
    "indiscriminate": ("indiscriminate", "digits-mlp"),
}

if __name__ == "__main__":
    for name, (poison, task) in DRAWN.items():
        harness.picture(poison, task=task).save(Path(__file__).parent / f"poison_{name}.png", optimize=True)
