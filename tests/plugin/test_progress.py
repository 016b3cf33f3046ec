"""What a person sees while models train."""

from __future__ import annotations

import pytest

from conftest import TINY
from harness import registry
from harness.cells import Cell, Trial
from harness.plugin.progress import StatusLine
from harness.studies.notes import Notes

CELL = Cell(
    registry.resolve("unlearner", "gd"), registry.resolve("task", "digits-cnn"), registry.resolve("poison", "gaussian")
)


def test_notes_say_what_trains_and_how_far_it_is(tmp_path):
    line = StatusLine(tmp_path, None)
    assert line.text() == "starting"
    for worker, arm in (("gw0", "P"), ("gw1", "R"), ("gw2", "U")):
        Notes(tmp_path, worker)(Trial(CELL, 3), arm, 5, 20)
    assert (
        line.text() == "gw0: gaussian model, seed 3, pass 5/20 · gw1: retraining, seed 3, pass 5/20 · gw2: gd, seed 3"
    )


def test_what_is_trained_for_a_poison_says_so(tmp_path):
    Notes(tmp_path, "main")(Trial(CELL, 3), "a surrogate", 5, 20)
    assert StatusLine(tmp_path, None).text() == "main: a surrogate for gaussian, seed 3, pass 5/20"


def test_a_worker_notes_at_most_twice_a_second(tmp_path):
    notes = Notes(tmp_path, "main")
    for done in range(1, 100):
        notes(Trial(CELL, 0), "R", done, 100)
    assert StatusLine(tmp_path, None).text().endswith("pass 1/100")


def test_another_model_is_noted_at_once(tmp_path):
    notes = Notes(tmp_path, "main")
    for arm in "PRU":
        notes(Trial(CELL, 0), arm, 0, 20)
    assert StatusLine(tmp_path, None).text() == "main: gd, seed 0"


def test_a_narrow_terminal_leaves_out_workers_before_how_far_the_run_is(tmp_path):
    for worker in ("gw0", "gw1"):
        Notes(tmp_path, worker)(Trial(CELL, 3), "R", 5, 20)
    line = StatusLine(tmp_path, None)
    line.finished, line.trials = 4, 40
    assert line.text(56) == "gw0: retraining, seed 3, pass 5/20 · g… — 4 of 40 trials"
    assert line.text(18) == "… — 4 of 40 trials"
    assert len(line.text(10)) == 10


def test_the_time_to_go_is_an_upper_bound_from_the_trials_so_far(tmp_path):
    line = StatusLine(tmp_path, None)
    line.finished, line.trials = 4, 40
    assert line.text() == "starting — 4 of 40 trials"
    line.finished, line._begun = 10, line._begun - 100
    assert line.text() == "starting — 10 of 40 trials, at most about 5 min to go"


def test_a_note_that_is_being_written_is_passed_over(tmp_path):
    (tmp_path / "gw0.json").write_text('"half')
    assert StatusLine(tmp_path, None).text() == "starting"


def test_a_disk_without_room_for_notes_does_not_matter(tmp_path):
    (tmp_path / "file").write_text("")
    Notes(tmp_path / "file" / "below", "gw0")(Trial(CELL, 0), "P", 1, 2)


@pytest.mark.parametrize(("workers", "who"), [("-n2", "gw0"), ("-n0", "main")])
def test_a_terminal_shows_it_on_its_last_line_and_gets_the_line_back(folder, workers, who):
    with folder.terminal("--task=tiny:Tiny:epochs=100", TINY[1], "--audit-seeds=3", workers) as until:
        pass
    text = until("")
    assert "\033[1;29r" in text, "the last of 30 lines is kept out of scrolling"
    assert f"{who}: " in text
    assert "pass " in text
    assert "of 12 trials" in text
    assert text.rindex("\033[r") > text.rindex("pass "), "the whole screen scrolls again"
    assert not (folder.store / "progress").exists() or not list((folder.store / "progress").iterdir())


def test_a_log_that_is_no_terminal_stays_quiet(folder):
    run = folder.pytest(*TINY, "--unlearner=identity", "--audit-seeds=3", "-n2")
    assert "\033[" not in run.text
    assert "pass " not in run.text.replace("passed", "")
