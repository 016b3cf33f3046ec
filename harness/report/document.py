"""The result document: built, read and written here."""

from __future__ import annotations

import json
import math
import os
import platform
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Outcome, UnlearningError
from harness.cells import Registered
from harness.judging.claims import CLAIMS
from harness.judging.reasons import advice_on
from harness.judging.verdict import Trace, Verdict
from harness.report.console import command_line
from harness.report.words import WORST, finding, standing_of, trace_text
from harness.specs import called
from harness.store.packing import NO_ZIP

if TYPE_CHECKING:
    import pytest

    from harness.plugin.settings import Settings

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


class Results:
    """What trials, audits, usual metrics and the contract reported, each by node id; failures; crashed workers."""

    def __init__(self) -> None:
        self.started = time.time()
        self.audits: dict[str, dict[str, Any]] = {}
        self.trials: dict[str, dict[str, Any]] = {}
        self.contract: dict[str, dict[str, Any]] = {}
        self.heuristics: dict[str, dict[str, Any]] = {}
        self.crashes: list[str] = []
        self.failed: set[str] = set()

    def hear(self, report: pytest.TestReport) -> None:
        """Keep what the report of an item carries."""
        if str(report.when) == "???":  # what xdist reports of a worker that is gone
            self.crashes.append(report.longreprtext)
        if report.failed:
            self.failed.add(report.nodeid)
        heard = getattr(report, "unlearning", None)
        if heard is None:
            return
        nodeid = heard["nodeid"]
        if "trial" in heard:
            self.trials[nodeid] = {**heard["trial"], "word": heard["word"]}
        elif "contract" in heard:
            self.contract[nodeid] = {"id": nodeid, **heard["contract"]}
        elif "heuristic" in heard:
            self.heuristics[nodeid] = {"id": nodeid, **heard["heuristic"]}
        else:
            self.audits[nodeid] = {
                "id": nodeid,
                **heard["audit"],
                "text": heard.get("text", ""),
                "red": report.failed,
                "as_required": report.passed and not heard.get("inconclusive", False),
            }

    def unanswered(self, nodeids: Iterable[str]) -> list[str]:
        """Return those of our tests that ended without a verdict and without a failure, which is reported anyway."""
        heard = {**self.audits, **self.contract, **self.heuristics}
        return [nodeid for nodeid in nodeids if nodeid not in heard and nodeid not in self.failed]

    def methods(self) -> tuple[MethodResult, ...]:
        """Return the audits and usual metrics, grouped."""
        return methods({"audits": self.audits.values(), "heuristics": self.heuristics.values()})

    def document(
        self, arguments: Sequence[object], settings: Settings, devices: str, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the JSON result: plain values, every number finite or None.

        Args:
            arguments: The command line of the run, without ``pytest``.
            settings: The settings of the run.
            devices: What it computed on, in words.
            asked: What was to be judged, for `not_judged`.
        """
        argv = ["pytest", *map(str, arguments)]
        judged = [*self.audits.values(), *self.heuristics.values()]
        named = {each["unlearner"]: each["made_of"] for each in judged} or {
            each.id: made_of(each) for each in settings.unlearners
        }
        return {
            "schema": 1,
            "run": {
                "argv": argv,
                "versions": versions(),
                "device": devices,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
                "seconds": round(time.time() - self.started, 3),
                "settings": {
                    **settings.recorded,
                    "tasks": list({audit["task"]: None for audit in self.audits.values()})
                    or [task.id for task in settings.tasks],
                    "command": command_line(argv),
                },
            },
            "asked": asked,
            "unlearners": [{"name": name, **of} for name, of in named.items()],
            "audits": _stored(self.audits),
            "trials": [trial for _, trial in sorted(self.trials.items()) if trial["cost"] is not None],
            "contract": [line for _, line in sorted(self.contract.items())],
            "heuristics": _stored(self.heuristics),
            "crashes": self.crashes,
        }


def _stored(heard: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Return what was reported, in the order of node ids, without what only the terminal needs."""
    return [{k: v for k, v in heard[id].items() if k not in ("text", "red", "made_of")} for id in sorted(heard)]


def plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain Python values, every number finite or None: for the controller and for JSON."""
    return {
        "unlearner": verdict.unlearner,
        "task": verdict.task,
        "poison": verdict.poison,
        "discovery": verdict.discovery,
        "measure": verdict.measure.name,
        "trace": verdict.measure.label if verdict.traces else "",
        "standing": standing_of(verdict),
        **_judged(verdict),
        "seeds": list(verdict.seeds),
        "values": {arm: [finite(x) for x in values] for arm, values in verdict.values.items()},
        "details": {name: finite(value) for name, value in verdict.details.items()},
        "by_seed": finite_tree(verdict.by_seed),
        "looks": [finite_tree(asdict(look)) for look in verdict.looks],
        "traces": {
            key: {"name": trace.measure.label, **_judged(trace), "seeds": len(trace.seeds), "text": trace_text(trace)}
            for key, trace in verdict.traces.items()
        },
        "finding": finding(verdict),
        "advice": advice_on(verdict.reason),
    }


def _judged(of: Trace) -> dict[str, Any]:
    """Return what one trace comes to, as plain values."""
    return {
        **{name: getattr(of.measure, name) for name in ("title", "test", "worse", "unit")},
        "verdict": of.outcome.value,
        "reason": of.reason,
        "interval": [finite(x) for x in of.interval],
        **{n: finite(getattr(of, n)) for n in ("estimate", "margin", "p_pass", "p_fail", "p_bite", "level")},
    }


def made_of(method: Registered) -> dict[str, Any]:
    """Return the record of a method, as plain values: its fields, distribution and file, and the hash of its source."""
    return {
        "fields": dict(method.fields),
        "distribution": method.distribution,
        "version": method.version,
        "file": method.file,
        "source_sha256": method.source,
    }


#: What an audit reports from the start, in case it ends in an error: the keys that every audit of a result has.
BLANK: dict[str, Any] = {
    "verdict": "ERROR", "estimate": None, "interval": [None, None], "margin": None, "p_pass": None, "p_fail": None,
    "p_bite": None, "seeds": [], "values": {}, "seconds": 0.0,
}  # fmt: skip


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the distributions that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("pytest-unlearning", "pytest", "pytest-xdist", "torch", "numpy", "scipy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
