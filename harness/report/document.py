"""The result document: built, read and written here."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Registered, UnlearningError
from harness.judging.verdict import Verdict
from harness.report.words import finding, standing_of, versions

if TYPE_CHECKING:
    import pytest

    from harness.plugin.settings import Settings


def read(path: Path) -> dict[str, Any]:
    """Return a JSON result.

    Raises:
        UnlearningError: There is no such file, or it is no result that this version reads.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnlearningError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UnlearningError(f"{path} is no JSON; name a file that --audit-json wrote") from None
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise UnlearningError(f"{path} is no result of schema 1; name a file that --audit-json wrote")
    return document


class Results:
    """What was heard of trials, audits, heuristics and the contract, each by node id, and of workers that crashed."""

    def __init__(self) -> None:
        self.started = time.time()
        self.audits: dict[str, dict[str, Any]] = {}
        self.trials: dict[str, dict[str, Any]] = {}
        self.contract: dict[str, dict[str, Any]] = {}
        self.heuristics: dict[str, dict[str, Any]] = {}
        self.crashes: list[str] = []

    def hear(self, report: pytest.TestReport) -> None:
        """Keep what an item's report carries."""
        if str(report.when) == "???":  # what xdist reports of a worker that is gone
            self.crashes.append(report.longreprtext)
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
                "as_required": not report.failed and not heard.get("inconclusive", False),
            }

    def document(self, config: pytest.Config, settings: Settings, devices: str) -> dict[str, Any]:
        """Return the JSON result: plain values, every number finite or None.

        Args:
            config: Of the run.
            settings: Of the run.
            devices: What it computed on, in words.
        """
        run = {
            "argv": ["pytest", *map(str, config.invocation_params.args)],
            "versions": versions(),
            "device": devices,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 3),
            "settings": {
                **settings.recorded,
                "tasks": list(dict.fromkeys(audit["task"] for audit in self.audits.values()))
                or [task.id for task in settings.tasks],
                "command": shlex.join(["pytest", *map(str, config.invocation_params.args)]),
            },
        }
        judged = [*self.audits.values(), *self.heuristics.values()]
        named = {each["unlearner"]: each["made_of"] for each in judged} or {
            each.id: made_of(each) for each in settings.unlearners
        }
        unlearners = [{"name": name, **of} for name, of in named.items()]

        def shown(heard: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
            """Return what was heard, in the order of node ids, without what only the terminal needs."""
            return [{k: v for k, v in heard[id].items() if k not in ("text", "red", "made_of")} for id in sorted(heard)]

        trials = [trial for _, trial in sorted(self.trials.items()) if trial["cost"] is not None]
        contract = [line for _, line in sorted(self.contract.items())]
        return {
            "schema": 1, "run": run, "unlearners": unlearners, "audits": shown(self.audits), "trials": trials,
            "contract": contract, "heuristics": shown(self.heuristics), "crashes": self.crashes,
        }  # fmt: skip


def plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain Python values, finite or None, which cross to the controller and into JSON."""
    return {
        "unlearner": verdict.unlearner,
        "task": verdict.task,
        "poison": verdict.poison,
        "discovery": verdict.discovery,
        "measure": verdict.measure.name,
        "title": verdict.measure.title,
        "test": verdict.measure.test,
        "worse": verdict.measure.worse,
        "unit": verdict.measure.unit,
        "verdict": verdict.outcome.value,
        "standing": standing_of(verdict),
        "reason": verdict.reason,
        "estimate": finite(verdict.estimate),
        "interval": [finite(x) for x in verdict.interval],
        "margin": finite(verdict.margin),
        "p_pass": finite(verdict.p_pass),
        "p_fail": finite(verdict.p_fail),
        "p_bite": finite(verdict.p_bite),
        "level": finite(verdict.level),
        "seeds": list(verdict.seeds),
        "values": {arm: [finite(x) for x in values] for arm, values in verdict.values.items()},
        "details": {name: finite(value) for name, value in verdict.details.items()},
        "by_seed": finite_tree(verdict.by_seed),
        "looks": [finite_tree(asdict(look)) for look in verdict.looks],
        "finding": finding(verdict),
    }


def made_of(method: Registered) -> dict[str, Any]:
    """Return what a method is, as plain values: its fields, whose it is, and its source."""
    return {
        "fields": dict(method.fields),
        "distribution": method.distribution,
        "version": method.version,
        "source_sha256": method.source,
    }


#: What an audit reports from the start, in case that it ends in an error: keys that every audit of a result has.
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
    """Return a plain float, or None for what is not a finite number."""
    return None if value is None or not math.isfinite(value) else float(value)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document whole or not at all."""
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
