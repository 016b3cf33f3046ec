"""What one process of a run has: its lab, its study, its id."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.api import Cell
from harness.plugin.progress import watched
from harness.plugin.settings import Settings
from harness.plugin.workers import SHARE
from harness.store.artefacts import Store
from harness.studies.notes import Notes
from harness.studies.ray import Board

if TYPE_CHECKING:
    from harness.studies.executors import Executor
    from harness.studies.study import Study
    from harness.trials.lab import Lab


SETTINGS = pytest.StashKey[Settings]()


STUDY = pytest.StashKey["Study"]()


AUDITED = pytest.StashKey[Sequence[Cell]]()  # the cells of the audits that survived deselection


RUN = pytest.StashKey[str]()


STORE = pytest.StashKey[Store]()


def study_of(config: pytest.Config) -> Study:
    """Return this process's study; torch is imported when the first item asks for it."""
    if STUDY not in config.stash:
        from harness.studies.study import Study

        settings = config.stash[SETTINGS]
        config.stash[STUDY] = Study(config.stash[AUDITED], executor_of(config), settings.plan, settings.tolerance)
    return config.stash[STUDY]


def executor_of(config: pytest.Config) -> Executor:
    """Return what runs this process's trials: its own lab, or a Ray cluster."""
    settings = config.stash[SETTINGS]
    if not settings.on_ray:
        return lab_of(config)
    from harness.studies.ray import Cluster, Ray

    cluster = Cluster.of(config.option.audit_executor)
    if config.option.audit_device == "cpu":
        cluster = replace(cluster, gpus=0.0)
    if not watched(config):
        return Ray(opening(config), cluster, settings.budget)
    board = Board(notes_folder(config))
    return Ray(functools.partial(opening(config), show=board.notes), cluster, settings.budget, board)


def lab_of(config: pytest.Config) -> Lab:
    """Return a lab over this run's store, on this process's device."""
    told = getattr(config, "workerinput", {})
    notes = Notes(notes_folder(config), told.get("workerid", "main"))
    return opening(config)(show=notes, share=told.get(SHARE, 1.0))


def store_of(config: pytest.Config) -> Store:
    """Return this run's store, for what is no trial."""
    if STORE not in config.stash:
        config.stash[STORE] = Store(str(config.stash[SETTINGS].store), run_id(config))
    return config.stash[STORE]


def opening(config: pytest.Config) -> functools.partial[Lab]:
    """Return what opens a lab of this run, here or on another machine."""
    from harness.trials.lab import Lab

    settings = config.stash[SETTINGS]
    return functools.partial(
        Lab.open, str(settings.store), data=settings.folder, device=config.option.audit_device, budget=settings.budget,
        run=run_id(config),
    )  # fmt: skip


def run_id(config: pytest.Config) -> str:
    """Return an id of this run, the same on all of its workers."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        return str(worker["unlearning_run"])
    if RUN not in config.stash:
        config.stash[RUN] = f"{time.time_ns():x}-{os.getpid()}"
    return config.stash[RUN]


def notes_folder(config: pytest.Config) -> Path:
    """Return where the workers of this run note what they do."""
    return config.stash[SETTINGS].store.scratch / "progress" / run_id(config)
