"""Modules and distributions that tests write."""

import sys
from pathlib import Path

#: A method.
FORGET = "def forget(model, request, lr: float = 0.1):\n    return model\n"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def install(folder: Path, name: str, group: str, entries: dict[str, str], metadata: str = "") -> None:
    info = folder / name / f"{name}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
    write(info / "entry_points.txt", f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    sys.path.insert(0, str(folder / name))
