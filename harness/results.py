"""What a run's items reported, in the process that shows and writes it."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

from harness.report import made_of, versions

if TYPE_CHECKING:
    import pytest

    from harness.options import Settings


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
                "seeds": settings.plan.seeds,
                "alpha": settings.plan.alpha,
                "futility": settings.plan.futility,
                "tolerance": settings.tolerance,
                "budget": settings.budget,
                "discovery": settings.discovery,
                "store": str(settings.store),
                "data": str(settings.folder) if settings.folder else None,
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
