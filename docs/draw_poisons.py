"""Draw what each poison does to images, beside this file: ``python docs/draw_poisons.py``."""

from __future__ import annotations

from pathlib import Path

import harness

#: Poisons with the task on which they are drawn.
DRAWN = {
    "backdoor": "digits-cnn",
    "gaussian": "digits-cnn",
    "confusion": "digits-cnn",
    "targeted": "digits-cnn",
    "indiscriminate": "digits-mlp",
}

if __name__ == "__main__":
    for poison, task in DRAWN.items():
        harness.picture(poison, task=task).save(Path(__file__).parent / f"poison_{poison}.png", optimize=True)
