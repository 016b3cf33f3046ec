"""A run for which everything is stored reads, judges and reports, and loads nothing that trains."""

from pathlib import Path

import pytest

from conftest import TINY, Folder, Run

HEAVY = {"torch", "sklearn", "hypothesis", "transformers", "torchvision", "datasets"}
AT_EXIT = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr))
"""
#: hypothesis's own plugin imports hypothesis at the end of every run of pytest.
ALONE = ("-n0", "--audit-seeds=3", "-p", "no:hypothesispytest")
DIGITS = ("--task=digits-mlp", "--poison=backdoor")


def heavy(run: Run) -> set[str]:
    """Return what a run had loaded, at its end, of what takes long to load."""
    (line,) = [line for line in run.text.splitlines() if line.startswith("LOADED ")]
    loaded = set(line.split()[1:])
    assert "harness" in loaded
    return loaded & HEAVY


@pytest.fixture
def reporting(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path, forks=None)  # a fork has loaded all of it
    folder.write("sitecustomize.py", AT_EXIT)
    return folder


@pytest.mark.parametrize("unlearner", [("--unlearner=scrub",), ()], ids=["scrub", "controls"])
@pytest.mark.parametrize("task", [TINY, DIGITS], ids=["tiny", "digits"])
def test_a_warm_rerun_loads_nothing_that_trains(reporting: Folder, task, unlearner):
    arguments = (*ALONE, *task, *unlearner)
    cold = reporting.pytest(*arguments, contract=True)
    assert "torch" in heavy(cold)
    warm = reporting.pytest(*arguments, contract=True)
    assert heavy(warm) == set()
    assert warm.judged == cold.judged
    assert not warm.built
    assert [line["kept"] for line in warm.json["contract"]] == [line["kept"] for line in cold.json["contract"]]


def test_the_usual_metrics_and_relearning_are_read_too(reporting: Folder):
    arguments = (*ALONE, *TINY, "--unlearner=gd", "-m", "heuristic or relearning")
    cold = reporting.pytest(*arguments)
    warm = reporting.pytest(*arguments)
    assert len(warm.json["heuristics"]) == len(cold.json["heuristics"]) > 0
    assert (heavy(cold) >= {"torch"}, heavy(warm)) == (True, set())
