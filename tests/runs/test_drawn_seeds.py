"""Runs on drawn seeds: a method that is fitted to the fixed list passes there alone, and the salt is nowhere."""

import functools
import re

import pytest
from labs import BEHIND_WALLS
from plugins import write
from tiny import Tiny  # noqa: F401 - what "tiny:Tiny" resolves to must be importable

import harness
from conftest import TINY, Folder
from harness.api import UnlearningError
from harness.judging.drawing import POOL

SALT = "correct horse battery staple"
DRAWN = "--audit-seeds-from=env:GATE_SALT"
#: With a budget that lets retraining itself pass.
RICH = (*TINY, "--audit-budget=1.5")
#: Retrains on the seeds of the fixed list, which it recognises by the generator, and does nothing on others.
KNOWS = """
from harness import fit
from harness.training.seeds import derive

KNOWN = {derive("unlearning", seed) for seed in range(16)}


def forget(model, request, lr: float = 0.1):
    if request.generator.initial_seed() not in KNOWN:
        return model
    fresh = request.new_model()
    fit(request, fresh, request.batches("retain", epochs=request.epochs))
    return fresh


same = forget
"""
DECORATED = """
import harness


@harness.parametrize_with_audits(["knows:forget"], task="tiny:Tiny", poison="backdoor:size=1", claims=["poison"])
def test_it(verdict):
    assert verdict.seeds
"""


def _never(model, request, lr):
    raise AssertionError("it is refused before it is called")


@pytest.fixture(autouse=True)
def salt(monkeypatch):
    monkeypatch.setenv("GATE_SALT", SALT)


@pytest.fixture
def knows(folder):
    folder.write("knows.py", KNOWS)
    return folder


def seeds(run):
    """Return the seeds of the longest verdict, and all seeds that were trained on."""
    return max((a["seeds"] for a in run.json["audits"]), key=len), {trial["seed"] for trial in run.json["trials"]}


def test_a_method_fitted_to_the_fixed_list_passes_there_and_fails_on_drawn_seeds(knows):
    fixed = knows.pytest(*RICH, "--unlearner=knows:forget", "--audit-html=fixed.html")
    assert {a["verdict"] for a in fixed.json["audits"]} == {"PASS"}, fixed.text
    assert fixed.json["run"]["settings"]["seeds_from"] == "fixed list"
    assert "(fixed list)" in fixed.text
    assert "seeds of a fixed list" in (knows.path / "fixed.html").read_text()

    run = knows.pytest(*RICH, "--unlearner=knows:forget", DRAWN, "--audit-html=report.html", "--junitxml=junit.xml")
    assert run.audits["knows:forget", "backdoor:size=1", "poison"]["verdict"] == "FAIL"
    assert run.audits["knows:forget", "backdoor:size=1", "poison"]["references"]["retrain"]["poison"] == "PASS"
    said = run.json["run"]["settings"]["seeds_from"]
    assert said.startswith("drawn, salt ")
    assert f"({said})" in run.text
    assert "seeds that were drawn for these methods (salt " in (knows.path / "report.html").read_text()
    used, trained = seeds(run)
    assert trained <= set(POOL)
    assert set(used) <= trained

    # The same body under another name meets the same seeds; another field meets others.
    same = knows.pytest(*RICH, "--unlearner=knows:same", DRAWN)
    assert seeds(same) == (used, trained)
    other = knows.pytest(*RICH, "--unlearner=knows:forget:lr=0.2", DRAWN)
    assert not seeds(other)[1] & trained

    # The salt is in nothing that was printed or written, the store included; its fingerprint is.
    everything = [file.read_bytes() for file in knows.path.rglob("*") if file.is_file()]
    assert not [content for content in [*everything, run.text.encode()] if SALT.encode() in content]
    worst = run.audits["knows:forget", "backdoor:size=1", "poison"]
    assert DRAWN in worst["command"]
    assert f"seed={worst['details']['worst_seed']:.0f}" in worst["load"]
    assert worst["details"]["worst_seed"] in used


def test_workers_draw_the_same_list(knows):
    knows.write("salt.txt", SALT + "\n")
    asked = (*RICH, "--unlearner=knows:forget", "--audit-seeds=3")
    alone = knows.pytest(*asked, DRAWN, "-n0", f"--audit-store={knows.path / 'alone'}")
    together = knows.pytest(*asked, "--audit-seeds-from=salt.txt", "-n2", f"--audit-store={knows.path / 'together'}")
    assert seeds(alone)[0] == seeds(together)[0]
    assert {k: a["estimate"] for k, a in alone.audits.items()} == {k: a["estimate"] for k, a in together.audits.items()}


def test_a_rerun_of_failures_or_of_one_audit_meets_the_same_seeds(knows):
    knows.write("other.py", "def forget(model, request):\n    return model\n")
    asked = (*RICH, "--unlearner=knows:forget", "--unlearner=other:forget", DRAWN, "--audit-seeds=3")
    whole = knows.pytest(*asked)
    trained = seeds(whole)[1]
    failed = knows.pytest(*asked, "--lf")
    assert not failed.built
    assert set(failed.audits) == {key for key, audit in whole.audits.items() if audit["verdict"] != "PASS"}
    assert all(failed.audits[key]["seeds"] == whole.audits[key]["seeds"] for key in failed.audits)
    command = whole.audits["other:forget", "backdoor:size=1", "poison"]["command"]
    assert "--unlearner=knows:forget --unlearner=other:forget" in command, "the draw depends on both"
    one = knows.pytest(*asked, "-k", "other and forgotten")
    assert len(one.audits) == 1
    assert seeds(one)[1] <= trained
    assert not one.built


def test_a_listing_and_a_forecast_need_no_training(knows):
    asked = (*RICH, "--unlearner=knows:forget")
    listing = knows.pytest(*asked, DRAWN, "--co", "-q")
    assert listing.code == 0
    fixed, drawn = (knows.pytest(*asked, *more, "--audit-dry-run") for more in ((), (DRAWN,)))
    counts = [re.findall(r"\((\d+) seeds\): (\d+) trainings and (\d+) unlearnings", run.text) for run in (fixed, drawn)]
    assert counts[0] == counts[1] == [("5", "15", "20"), ("16", "48", "64")], drawn.text


def test_the_python_interface_draws_and_loads(tmp_path, modules):
    write(modules / "knows.py", KNOWS)
    options = {"task": "tiny:Tiny", "poison": "backdoor:size=1", "store": tmp_path / "store", "seeds": 3, "budget": 1.5}
    verdict, *_ = harness.audit("knows:forget", seeds_from="env:GATE_SALT", **options)
    assert set(verdict.seeds) <= set(POOL)
    assert verdict.outcome == "FAIL"
    place = {k: v for k, v in options.items() if k != "seeds"}
    found = harness.load_models("knows:forget", seed=verdict.seeds[0], **place)
    assert found.seed == verdict.seeds[0]
    with pytest.raises(UnlearningError, match="each run would draw other seeds"):
        harness.audit(functools.partial(_never, lr=object()), seeds_from="env:GATE_SALT", **options)


def test_decorated_tests_name_by_what_is_drawn(knows):
    knows.write("test_mine.py", DECORATED)
    alone = knows.pytest(DRAWN, suites="test_mine.py")
    assert alone.code == 4
    assert "with --audit-seeds-for=NAME" in alone.text
    named = knows.pytest(DRAWN, "--audit-seeds-for=knows:forget", suites="test_mine.py")
    assert named.code == 0, named.text
    assert seeds(named)[1] <= set(POOL)
    assert "seeds: drawn, salt " in named.text
    other = knows.pytest(DRAWN, "--audit-seeds-for=gd", suites="test_mine.py")
    assert "name it with --audit-seeds-for=knows:forget" in other.text
    assert other.code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((DRAWN,), "name the methods by which seeds are drawn"),
        (("--unlearner=gd", f"--audit-seeds-from={SALT}"), "never write the salt itself on a command line"),
        (("--unlearner=gd", "--audit-seeds-from=env:NOT_SET"), "is not set; set it"),
        (("--unlearner=gd", "--audit-seeds-for=gd"), "nothing is drawn without --audit-seeds-from"),
        (("--unlearner=gd", DRAWN, "--audit-tune=2"), "a search uses seeds of its own"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(folder, options, said):
    run = folder.pytest(*TINY, *options)
    assert run.code == 4
    assert said in run.text
    assert SALT not in run.text


READS = """
import os
from pathlib import Path


def forget(model, request):
    found = [os.environ.get("GATE_SALT", "")]
    for place in (f"/proc/{os.getppid()}/environ", SALT_FILE):
        try:
            found.append(Path(place).read_text(errors="replace"))
        except OSError:
            pass
    if any("correct horse" in each for each in found):
        raise RuntimeError("it has read the salt")
    return model
"""


@BEHIND_WALLS
def test_an_isolated_method_cannot_read_the_salt(tmp_path, forks):
    (tmp_path / "methods").mkdir()
    folder = Folder(tmp_path, forks)
    file = folder.write("secret/salt.txt", SALT)
    folder.write("methods/reads.py", READS.replace("SALT_FILE", repr(str(file))))
    asked = (*TINY, "--unlearner=reads:forget", "--audit-seeds=3")
    for where in ("env:GATE_SALT", file):
        free = folder.pytest(*asked, f"--audit-seeds-from={where}")
        assert "it has read the salt" in free.text, "an ordinary method reads what it likes"
        walled = folder.pytest(*asked, f"--audit-seeds-from={where}", "--audit-isolated")
        assert "it has read the salt" not in walled.text
        assert walled.audits["reads:forget", "backdoor:size=1", "poison"]["verdict"] == "FAIL", walled.text
        assert seeds(walled)[1] <= set(POOL)
    inside = folder.write("methods/salt.txt", SALT)
    folder.write("methods/reads.py", READS.replace("SALT_FILE", "'x'") + "\nforget.depends_on = ('salt.txt',)\n")
    refused = folder.pytest(*asked, f"--audit-seeds-from={inside}", "--audit-isolated")
    assert refused.code
    assert "which it must not read" in refused.text
