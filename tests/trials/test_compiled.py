"""What `torch.compile` compiles is kept in the user's cache; by a task that looks where that would be."""

import os
from dataclasses import dataclass, replace

import pytest
import torch
from labs import BACKDOOR, GD, TINY, lab_in, trial
from tiny import Tiny

from harness.cells import Cell, Trial
from harness.trials.bench import INDUCTOR


@dataclass(frozen=True)
class Compiled(Tiny):
    compiled: bool = True


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Collect the folder that is in force whenever a model is to be compiled, which takes torch half a minute."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: seen.append(os.environ.get(INDUCTOR)) or model)
    monkeypatch.delenv(INDUCTOR, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return seen


@pytest.fixture
def compiled(tmp_path):
    lab = lab_in(tmp_path / "store")
    return lab, Trial(Cell(GD, replace(TINY, value=Compiled()), BACKDOOR), 0)


def test_it_is_kept_in_the_users_cache_and_in_no_store_that_others_may_write_to(folders, compiled, tmp_path):
    lab, one = compiled
    lab._models.of(one, "P")
    kept = tmp_path / "cache" / "pytest-unlearning-compiled"
    assert set(folders) == {str(kept)}
    assert kept.is_dir()
    assert kept.stat().st_mode & 0o077 == 0
    assert INDUCTOR not in os.environ


def test_a_folder_of_the_user_stays(folders, compiled, monkeypatch):
    lab, one = compiled
    monkeypatch.setenv(INDUCTOR, "mine")
    lab._models.of(one, "P")
    assert set(folders) == {"mine"}
    assert os.environ[INDUCTOR] == "mine"


def test_a_folder_that_cannot_be_made_stops_nobody(folders, compiled, tmp_path):
    lab, one = compiled
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pytest-unlearning-compiled").write_text("in the way")
    lab._models.of(one, "P")
    assert set(folders) == {None}


def test_other_tasks_have_none(folders, tmp_path):
    lab = lab_in(tmp_path / "store")
    lab._models.of(trial(GD), "P")
    assert not folders
    assert not (tmp_path / "cache" / "pytest-unlearning-compiled").exists()
