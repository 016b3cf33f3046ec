"""What the tests of a run reported, and the JSON result that is made of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.cells import Registered
from harness.judging.reasons import advice_on
from harness.judging.verdict import Trace, Verdict
from harness.report.console import command_line
from harness.report.document import Entry, MethodResult, finite, finite_tree, methods, versions
from harness.report.words import finding, standing_of, trace_text

if TYPE_CHECKING:
    import pytest

    from harness.plugin.settings import Settings


class Heard:
    """What trials, audits, usual metrics and the contract reported, each by node id; failures; crashed workers.

    Audits, metrics and lines of the contract are in the order in which they were collected: workers finish in any.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.trials: dict[str, dict[str, Any]] = {}
        self.crashes: list[str] = []
        self.failed: set[str] = set()
        self._audits: dict[str, dict[str, Any]] = {}
        self._contract: dict[str, dict[str, Any]] = {}
        self._heuristics: dict[str, dict[str, Any]] = {}
        self._places: dict[str, int] = {}

    @property
    def audits(self) -> dict[str, dict[str, Any]]:
        return self._ordered(self._audits)

    @property
    def contract(self) -> dict[str, dict[str, Any]]:
        return self._ordered(self._contract)

    @property
    def heuristics(self) -> dict[str, dict[str, Any]]:
        return self._ordered(self._heuristics)

    def _ordered(self, heard: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {nodeid: heard[nodeid] for nodeid in sorted(heard, key=self._places.__getitem__)}

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
        self._places[nodeid] = heard["place"]
        if "trial" in heard:
            self.trials[nodeid] = {**heard["trial"], "word": heard["word"]}
        elif "contract" in heard:
            self._contract[nodeid] = {"id": nodeid, **heard["contract"]}
        elif "heuristic" in heard:
            self._heuristics[nodeid] = {"id": nodeid, **heard["heuristic"]}
        else:
            self._audits[nodeid] = {
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
            "contract": list(self.contract.values()),
            "heuristics": _stored(self.heuristics),
            "crashes": self.crashes,
        }


def _stored(heard: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Return what was reported, without what only the terminal needs."""
    return [{k: v for k, v in entry.items() if k not in ("text", "red", "made_of")} for entry in heard.values()]


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
