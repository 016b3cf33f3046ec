"""A run of the suites is red where a test that was selected gave no verdict, whatever kept it from giving one."""

import pytest

from conftest import TINY

HIDES = """\
import os

import pytest


def pytest_collection_modifyitems(items):
    mark = {"skip": pytest.mark.skip("tired"), "xfail": pytest.mark.xfail}.get(os.environ["HIDE"])
    for item in items:
        if mark is not None and "forgotten" in item.name:
            item.add_marker(mark)


def pytest_runtest_protocol(item):
    if "forgotten" in item.name and os.environ["HIDE"] == "never":
        return True
    if "forgotten" in item.name and os.environ["HIDE"] == "exit":
        pytest.exit("bye", returncode=0)
"""
RUN = ("-p", "hides", "--unlearner=identity", "--audit-seeds=3", "-k", "forgotten", *TINY)
OWN = """\
import pytest

import harness


def forget(model, request):
    pytest.skip("not here")


@harness.parametrize_with_audits([forget], task="tiny:Tiny", poison="backdoor:size=1", claims=["poison"])
def test_raises(verdict):
    verdict.require()


@pytest.mark.skip("not today")
@harness.parametrize_with_audits(["identity"], task="tiny:Tiny", poison="backdoor:size=1", claims=["poison"])
def test_not_today(verdict):
    verdict.require()
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("skip", "not judged: a test of these suites cannot be skipped. Skipped: tired"),
        ("xfail", "of the poison's effect is left"),
        ("never", "= not judged ="),
        ("exit", "= not judged ="),
    ],
)
def test_what_gives_no_verdict_is_red(trained, monkeypatch, how, said):
    trained.write("hides.py", HIDES)
    monkeypatch.setenv("HIDE", how)
    run = trained.pytest(*RUN)
    assert run.code == 1, run.text
    assert said in run.text
    assert "test_poison_is_forgotten[identity-tiny:Tiny-backdoor:size=1]" in run.text
    assert all(not audit["as_required"] for audit in run.json["audits"])


def test_workers_tell_what_was_to_be_judged(trained, monkeypatch):
    trained.write("hides.py", HIDES)
    monkeypatch.setenv("HIDE", "never")
    run = trained.pytest(*RUN, "-n1")
    assert run.code == 1, run.text
    assert "= not judged =" in run.text


def test_a_listing_and_a_forecast_judge_nothing_and_are_green(folder, monkeypatch):
    folder.write("hides.py", HIDES)
    monkeypatch.setenv("HIDE", "skip")
    for instead in ("--co", "--audit-dry-run"):
        assert folder.pytest(*RUN, instead).code == 0


def test_a_test_of_ones_own_may_be_skipped_by_its_mark_and_not_by_its_method(trained):
    own = trained.write("test_own.py", OWN)
    run = trained.pytest("--audit-seeds=3", suites=str(own))
    assert run.code == 1, run.text
    assert run.counts()["error"] == 1
    assert "tried to end its own test by pytest.skip (not here)" in run.text
    assert "SKIPPED [1] test_own.py" in run.text or run.counts()["skipped"] >= 1
