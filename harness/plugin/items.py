"""Trials as pytest items, and what audits and trials report."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cells import Cell, Trial
from harness.plugin.session import Session

PLACE = pytest.StashKey[int]()  # per item: how many were collected before it
REPORTED = pytest.StashKey[dict[str, Any]]()  # per item: what its report carries to the controller
TRIALS = "trials"  # where trials stand in node ids


class TrialHooks:
    """What pytest calls around a trial: the hooks of an item of the session, but none that capture logs.

    What a trial logs is in no report, because it never fails, and pytest 9.2 would attach a handler to each of torch's
    loggers, some 45, six times an item. Live logs and log files are the session's and go on.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._plugins = session.config.pluginmanager
        here = [session.path, *session.path.parents]
        deeper = [
            plugin
            for name, plugin in self._plugins.list_name_plugin()
            if Path(name).name == "conftest.py" and Path(name).parent not in here
        ]
        self._left_out = {self._plugins.get_plugin("logging-plugin"), *deeper}

    def __getattr__(self, name: str) -> Any:
        caller = self._plugins.subset_hook_caller(name, remove_plugins=self._left_out)
        setattr(self, name, caller)  # asked for once
        return caller


class TrialItem(pytest.Item):
    """One trial. It is put before the audits that need it, reports under a word of its own, and never fails."""

    _frozen = False  # of the class: once a process

    def __init__(self, *, trial: Trial, run: Session, hooks: TrialHooks, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial = trial
        self._run = run
        self._hooks = hooks

    @property
    def ihook(self) -> Any:
        """What pytest calls around it."""
        return self._hooks

    def runtest(self) -> None:
        """Compute and store what the trial lacks, unless its audits are conclusive without it."""
        from harness.studies.study import Status

        study = self._run.study
        status = study.work(self.trial)
        result, error = study.result(self.trial), study.error(self.trial)
        if status is Status.NOT_NEEDED:
            word = "not needed"
        elif error is not None:
            word = "raised"
        else:
            word = "trained" if result is not None and result.made_here else "cached"
        if not TrialItem._frozen and "torch" in sys.modules:
            # torch and its like are loaded for good: half a million objects, 0.1 s for every full collection.
            gc.freeze()
            TrialItem._frozen = True
        cell = self.trial.cell
        self.stash[REPORTED] = {
            "trial": {
                "unlearner": cell.unlearner.id,
                "task": cell.task.id,
                "poison": cell.poison.id,
                "discovery": cell.discovery,
                "seed": self.trial.seed,
                "cost": dict(result.cost) if result is not None else None,
            },
            "word": word,
            "of": len(study.trials),
        }

    def reportinfo(self) -> tuple[str, None, str]:
        """Return where it is from: not from a file."""
        return TRIALS, None, self.name


def add_trials(run: Session, session: pytest.Session) -> None:
    """Insert, before the first audit, one item per trial that the audits can need."""
    items = session.items
    audits = [item for item in items if cell_of(item) is not None]
    if not audits:
        return
    from harness.studies.controls import trials_of

    run.cells = list(dict.fromkeys(cell for item in audits if (cell := cell_of(item)) is not None))
    hooks = TrialHooks(session)
    at = items.index(audits[0])
    items[at:at] = [
        TrialItem.from_parent(session, name=trial.id, nodeid=f"{TRIALS}::{trial.id}", trial=trial, run=run, hooks=hooks)
        for trial in trials_of(run.cells, run.settings.plan)
    ]


def cell_of(item: pytest.Item) -> Cell | None:
    """Return the cell that an audit is about; None for other items."""
    callspec = getattr(item, "callspec", None)
    cell = callspec.params.get("audited") if callspec is not None else None
    return cell if isinstance(cell, Cell) else None


def claim_of(item: pytest.Item) -> str:
    """Return the name of the claim that an audit judges, e.g. ``"poison"``."""
    # The mark of the case, which names one claim; that of the function, which comes before it, may name several.
    marker = [mark for mark in item.own_markers if mark.name == "audit"][-1]
    return str(marker.args[0])


def is_control(item: pytest.Item) -> bool:
    """Return whether an audit is of a control, whose test says what it must conclude."""
    marker = item.get_closest_marker("audit")
    return marker is not None and marker.kwargs.get("control") is not None
