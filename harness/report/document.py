"""The JSON result of a run: read, grouped and written here. What a run puts into it is in collected.py."""

from __future__ import annotations

import json
import math
import platform
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.api import Outcome, UnlearningError
from harness.judging.claims import CLAIMS
from harness.report.words import WORST
from harness.specs import called
from harness.store.files import whole
from harness.store.packing import NO_ZIP, swollen

#: One audit, usual metric or trial of a result, as in the JSON.
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class CellResult:
    """What a run concluded about one method on one task and poison.

    Attributes:
        poison: Id of the poison.
        discovery: Share of the poisoned points that the method was given, in (0, 1].
        audits: Its audits, in the order of columns.
        metrics: Its usual metrics, in the order of columns.
    """

    poison: str
    discovery: float
    audits: tuple[Entry, ...]
    metrics: tuple[Entry, ...]

    @property
    def by_claim(self) -> dict[str, Entry]:
        """Its audits and usual metrics by claim."""
        return {each["claim"]: each for each in (*self.audits, *self.metrics)}

    @property
    def worst(self) -> str:
        """The worst verdict of its audits; ``"PASS"`` if it has no audits."""
        return worst_of(self.audits)

    @property
    def seeds(self) -> int:
        """How many seeds the worst verdict took; 0 for an error.

        A poison may FAIL at three seeds while accuracy is still being judged. A PASS took those of its slowest trace.
        """
        worst = [a for a in self.audits if a["verdict"] == self.worst != "ERROR"]
        traces = [trace["seeds"] for a in worst if self.worst == "PASS" for trace in a.get("traces", {}).values()]
        return max((*(len(a["seeds"]) for a in worst), *traces), default=0)


@dataclass(frozen=True)
class MethodResult:
    """What a run concluded about one method on one task.

    Attributes:
        unlearner: Id of the method.
        task: Id of the task.
        cells: Its results, poison by poison.
    """

    unlearner: str
    task: str
    cells: tuple[CellResult, ...]

    @property
    def called(self) -> str:
        """The method as people read it: its alias, if it has one."""
        return called(self.unlearner)

    @property
    def name(self) -> str:
        """The method and its task, as people read them."""
        return f"{self.called} on {self.task}"

    @property
    def audits(self) -> tuple[Entry, ...]:
        """All its audits, poison by poison."""
        return tuple(audit for cell in self.cells for audit in cell.audits)

    @property
    def metrics(self) -> tuple[Entry, ...]:
        """All its usual metrics, poison by poison."""
        return tuple(metric for cell in self.cells for metric in cell.metrics)

    @property
    def worst(self) -> str:
        """The worst verdict of its audits; ``"PASS"`` if it has no audits."""
        return worst_of(self.audits)

    @property
    def references(self) -> list[Mapping[str, Any]]:
        """What the controls beside its audits concluded, once for each audit that reports them."""
        return [a["references"] for a in self.audits if a.get("references")]

    @property
    def control(self) -> bool:
        """Whether it is a control that nobody asked for."""
        return bool(self.audits) and all(a.get("control") for a in self.audits)


def methods(document: Mapping[str, Any]) -> tuple[MethodResult, ...]:
    """Return the audits and usual metrics of a result, grouped: by method and task, then by poison, then by claim.

    Args:
        document: A JSON result, or its ``"audits"`` and ``"heuristics"``. Either may be missing.
    """
    order = {claim: i for i, claim in enumerate(CLAIMS)}
    audits, metrics = list(document.get("audits", ())), list(document.get("heuristics", ()))
    informing = {id(each) for each in metrics}
    found = []
    for (unlearner, task), of_method in grouped([*audits, *metrics], "unlearner", "task").items():
        cells = []
        for (poison,), of_cell in grouped(of_method, "poison").items():
            of_cell.sort(key=lambda each: order.get(each["claim"], len(order)))
            cells.append(
                CellResult(
                    poison,
                    min(each.get("discovery", 1.0) for each in of_cell),
                    tuple(each for each in of_cell if id(each) not in informing),
                    tuple(each for each in of_cell if id(each) in informing),
                )
            )
        found.append(MethodResult(unlearner, task, tuple(cells)))
    return tuple(found)


def grouped(entries: Iterable[Entry], *keys: str) -> dict[tuple[Any, ...], list[Entry]]:
    """Return entries by their values under the keys, in the order in which each group first appears."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for each in entries:
        groups.setdefault(tuple(each[key] for key in keys), []).append(each)
    return groups


def places(found: Iterable[MethodResult]) -> list[tuple[str, str]]:
    """Return every task with every poison that was judged on it, once."""
    return list(dict.fromkeys((method.task, cell.poison) for method in found for cell in method.cells))


def worst_of(audits: Iterable[Entry]) -> str:
    """Return the worst verdict; ``"PASS"`` if there are no audits."""
    return min((str(audit["verdict"]) for audit in audits), key=WORST.index, default="PASS")


def title_of(claim: str) -> str:
    """Return the title of a claim's column; a claim that this version does not know is its own title."""
    return CLAIMS[claim].title if claim in CLAIMS else claim


#: The result of a bundle, which is a zip.
IN_BUNDLE = "result.json"


def read(path: Path) -> dict[str, Any]:
    """Return a JSON result, or that of a bundle.

    Raises:
        UnlearningError: The file is missing, or it is not a result that this version reads.
    """
    try:
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as bundle:
                if swollen(bundle, path.stat().st_size):
                    raise UnlearningError(f"{path} would fill the memory; name a bundle that submit wrote")
                content = bundle.read(IN_BUNDLE)
        document = json.loads(content)
    except OSError as error:
        raise UnlearningError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, *NO_ZIP):
        raise UnlearningError(f"{path} is not JSON; name a file that --audit-json wrote") from None
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise UnlearningError(f"{path} is not a result of schema 1; name a file that --audit-json wrote")
    return document


#: What `not_judged` calls the answers of a part of a result.
ANSWERS = {"audits": "audit", "contract": "line of the contract"}


def not_judged(document: Mapping[str, Any], part: str) -> str:
    """Return the sentence on what a run was asked to judge and did not; ``""`` if it judged everything.

    A line of the contract that could not be examined is answered if the result gives the reason.

    Args:
        document: A JSON result.
        part: ``"audits"`` or ``"contract"``.
    """
    asked = [tuple(each) for each in document.get("asked", {}).get(part, ())]
    if part == "contract":
        keys: tuple[str, ...] = ("unlearner", "line")
        answers = [each for each in document[part] if each["kept"] or (each["kept"] is None and each["sentence"])]
    else:
        keys = ("unlearner", "task", "poison", "claim")
        answers = [each for each in document[part] if each["verdict"] in list(Outcome)]
    answered = {tuple(each[key] for key in keys) for each in answers}
    missing = [each for each in asked if each not in answered]
    if asked and not missing:
        return ""
    kind = ANSWERS[part]
    if not asked:
        return f"the run was asked for no {kind}, so nothing was judged"
    named = "; ".join(", ".join(each) for each in missing[:2]) + ("; ..." if len(missing) > 2 else "")
    plural = kind.replace(" ", "s ", 1) if " " in kind else f"{kind}s"
    return f"{len(missing)} of {len(asked)} {plural} were not judged: {named}"


def finite_tree(value: Any) -> Any:
    """Return nested plain values, tuples as lists, with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {name: finite_tree(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_tree(each) for each in value]
    return finite(value) if isinstance(value, float) else value


def finite(value: float | None) -> float | None:
    """Return a plain float; None if it is not a finite number."""
    return None if value is None or not math.isfinite(value) else float(value)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document, completely or not at all."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, completely or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the distributions that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("pytest-unlearning", "pytest", "pytest-xdist", "torch", "numpy", "scipy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
