"""What a result was made by and on: the sources that have a say in it, and the machine."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import registry
from harness.locating import digest_of
from harness.sources import ROOT
from harness.studies.controls import reference_unlearners

#: Parts of `harness` that have no say in a result, or are plugins, each with a source of its own.
APART = ("__main__", "adapters", "auditing", "bundles", "canaries", "cli", "pipelines", "tasks")


@dataclass(frozen=True)
class Made:
    """What a result was made by and on, as its manifest has it.

    Attributes:
        sources: SHA-256 of what has a say in it beside the method: parts of this package, task, poisons, controls.
        device: Kind of device, ``"cpu"`` or ``"cuda"``; ``"auto"`` if it is not known.
        machine: The machine in words.
    """

    sources: Mapping[str, str]
    device: str
    machine: str


def sources_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of all that has a say in a result that was made here, beside its methods, by its name.

    Args:
        document: The JSON result. Its tasks and poisons are imported.

    Raises:
        SpecError: One of them cannot be made.
    """
    named: tuple[tuple[registry.Kind, list[str]], ...] = (
        ("task", document["run"]["settings"]["tasks"]),
        ("poison", [audit["poison"] for audit in document["audits"]]),
    )
    found = {}
    for part in sorted((ROOT / "harness").iterdir()):
        if part.stem not in (*APART, "__init__", "__pycache__") and (part.is_dir() or part.suffix == ".py"):
            found[f"harness.{part.stem}"] = _digest(part)
    suites = importlib.util.find_spec("test_suites")
    for folder in (suites.submodule_search_locations or ()) if suites else ():
        found["test_suites"] = _digest(Path(folder))
    plugins = [registry.resolve(kind, spec) for kind, specs in named for spec in dict.fromkeys(specs)]
    return found | {f"{each.kind} {each.name}": each.source for each in (*plugins, *reference_unlearners())}


def _digest(part: Path) -> str:
    """Return the SHA-256 of a module, or of the modules of a package and their names."""
    if part.is_file():
        return digest_of(part)
    files = sorted(part.rglob("*.py"))
    lines = (f"{file.relative_to(part).as_posix()} {digest_of(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def others_of(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Return the names of sources that two results do not have in common, of those that both were made by."""
    return [name for name in theirs if name in ours and theirs[name] != ours[name]]


def machine(device: str) -> str:
    """Return this machine in words: processor, cores, system; and GPU, if models were made on one."""
    parts = [_processor(), f"{os.cpu_count()} cores", f"{platform.system()} {platform.machine()}"]
    if device == "cuda":
        import torch  # which has made the models, so that it is there

        parts.insert(0, torch.cuda.get_device_name())
    return ", ".join(parts)


def _processor() -> str:
    """Return the name of the processor; on Linux, where Python does not know it, as the kernel says it."""
    try:
        named = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or "unknown processor"


def without_places(value: Any, places: Mapping[Path, str]) -> Any:
    """Return plain values without the absolute paths of some places: what lies below one is named from there.

    Args:
        value: The values.
        places: Each place, with a name for itself.
    """
    told: list[tuple[re.Pattern[str], str]] = []
    for place in sorted(
        (each for each in places if each.name), key=lambda each: -len(str(each))
    ):  # the innermost first
        told.append((re.compile(re.escape(f"{place}{os.sep}")), ""))
        told.append((re.compile(re.escape(str(place)) + r"(?![\w.-])"), places[place]))
    return _told(value, told)


def _told(value: Any, places: Sequence[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, Mapping):
        return {name: _told(each, places) for name, each in value.items()}
    if isinstance(value, list):
        return [_told(each, places) for each in value]
    if isinstance(value, str):
        for pattern, name in places:
            value = pattern.sub(name, value)
    return value
