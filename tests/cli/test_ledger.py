"""The ledger of a gate: what was submitted, how often, and what alpha that spent."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from documents import document

from conftest import TINY
from harness.api import UnlearningError
from harness.cli import ledger
from harness.judging.drawing import FIXED, POOL

SALT = "correct horse battery staple"
DRAWN = "drawn, salt 0a1b2c3d, list 4e5f6a7b"


def submission(method="mine:forget", **changes):
    settings = {"seeds": 16, "plan": "reliable", "futility": 0.1, "tolerance": 0.2, "budget": 0.1, "discovery": 1.0}
    return {
        "date": "2026-01-01T00:00:00Z", "method": method, "source_sha256": "ab" * 32, "fields": {}, "tasks": ["t"],
        "poisons": ["p"], "settings": settings, "seeds": DRAWN, "alpha": 0.05, "verdict": "FAIL",
    } | changes  # fmt: skip


def told(path, *submissions):
    ledger.append(path, submissions)
    return ledger.in_words(path, submissions)


def test_it_counts_draws_and_the_alpha_that_they_spent(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = submission()
    assert told(path, first) == [
        "submission 1 under the name mine:forget: 1 different on drawn seeds, alpha spent 0.05",
        "the whole ledger: 1 submission under 1 name, 1 different on drawn seeds, alpha spent 0.05",
    ]
    own, whole = told(path, {**first, "date": "2026-01-02T00:00:00Z"})
    assert own == (
        "submission 2 under the name mine:forget: 1 different on drawn seeds, alpha spent 0.05; this one repeats an "
        "earlier submission, and spends nothing"
    )
    own, _ = told(path, submission("mine:forget:lr=0.2", fields={"lr": 0.2}, alpha=0.1))
    assert own == "submission 3 under the name mine:forget: 2 different on drawn seeds, alpha spent 0.15"
    own, whole = told(path, submission("mine:forget", seeds=FIXED))
    assert own == (
        "submission 4 under the name mine:forget: 2 different on drawn seeds, alpha spent 0.15; this one is on the "
        "fixed list, which its author may have tuned on"
    )
    own, whole = told(path, submission("other:forget"))
    assert own == "submission 1 under the name other:forget: 1 different on drawn seeds, alpha spent 0.05"
    assert whole == "the whole ledger: 5 submissions under 2 names, 3 different on drawn seeds, alpha spent 0.2"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "mine:other"},  # one file may hold a hundred methods
        {"source_sha256": "cd" * 32},
        {"fields": {"lr": 0.2}},
        {"seeds": DRAWN.replace("4e5f", "0000")},
        {"poisons": ["p", "q"]},
        {"settings": {**submission()["settings"], "tolerance": 0.3}},
    ],
)
def test_what_differs_is_no_repeat(tmp_path, change):
    *_, whole = told(tmp_path / "ledger.jsonl", submission(), submission(**change))
    assert "2 different on drawn seeds, alpha spent 0.1" in whole


def test_a_date_and_a_verdict_alone_are_a_repeat(tmp_path):
    *_, whole = told(tmp_path / "ledger.jsonl", submission(), submission(verdict="PASS", date="later"))
    assert "1 different on drawn seeds, alpha spent 0.05" in whole


def _append(path, number):
    for i in range(25):
        ledger.append(Path(path), [submission(date=f"{number}-{i}"), submission(date=f"{number}-{i}, second")])


def test_two_at_once_lose_nothing(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_append, [path] * 2, range(2)))
    dates = [each["date"] for each in ledger.read(path)]
    assert sorted(dates) == sorted(f"{n}-{i}{more}" for n in range(2) for i in range(25) for more in ("", ", second"))


@pytest.mark.parametrize("line", ["{", "[]", '"x"', '{"method": "a"}', "", json.dumps(submission(alpha="much"))])
def test_a_broken_line_is_named_and_touched_by_nobody(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    path.write_text(f"{json.dumps(submission())}\n{line}\n")
    with pytest.raises(UnlearningError, match=r"line 2 of the ledger .*ledger\.jsonl is not a submission; restore it"):
        ledger.read(path)
    ledger.append(path, [submission(date="after")])
    first, broken, last = path.read_text().splitlines()
    assert (json.loads(first), broken, json.loads(last)) == (submission(), line, submission(date="after"))


def test_a_line_that_was_broken_off_does_not_swallow_the_next(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps(submission())[:40])
    ledger.append(path, [submission()])
    assert json.loads(path.read_text().splitlines()[1]) == submission()


def test_a_ledger_that_cannot_be_used_is_one_sentence(tmp_path):
    with pytest.raises(UnlearningError, match=r"the directory of the ledger .* is missing"):
        ledger.read(tmp_path / "nowhere" / "ledger.jsonl")
    for use in (ledger.read, lambda path: ledger.append(path, [submission()])):
        with pytest.raises(UnlearningError, match=r"the ledger .* cannot be (read|written)"):
            use(tmp_path)


def test_a_result_says_what_was_submitted():
    result = document(("good", "worse=bad:lr=0.2"), ("noise", "stamp"))
    result["run"]["settings"] |= {"plan": "quick", "futility": 0.1, "discovery": 1.0, "seeds_from": DRAWN}
    keys = ("unlearner", "task", "poison", "claim")
    result["asked"] = {"audits": [[audit[key] for key in keys] for audit in result["audits"]]}
    good, bad = ledger.submissions_in(result)
    expected = submission(
        "good",
        fields={"lr": 0.1},
        tasks=["task"],
        poisons=["noise", "stamp"],
        verdict="PASS",
        settings=good["settings"],
    )
    assert good == expected
    assert (bad["method"], ledger.name_of(bad), bad["verdict"]) == ("bad:lr=0.2", "bad", "FAIL")
    result["asked"]["audits"].append(["good", "task", "other", "poison"])
    assert [each["verdict"] for each in ledger.submissions_in(result)] == ["NOT JUDGED", "FAIL"]


# ---- the gate itself


def test_the_gate_draws_for_all_its_stages_and_notes_what_it_judged(folder, tmp_path):
    secret, path = folder.write("salt.txt", SALT), tmp_path / "ledger.jsonl"

    def gate(*more):
        return folder.harness(
            "gate", f"--store={folder.store}", "--unlearner=retrain", *TINY, f"--ledger={path}", "--report=report",
            *more, "--", "--audit-budget=1.5", "--audit-plan=quick", "--audit-seeds=5",
        )  # fmt: skip

    code, said = gate(f"--seeds-from={secret}")
    assert code == 0, said
    result = json.loads((tmp_path / "report" / "audits.json").read_text())
    assert {seed for audit in result["audits"] for seed in audit["seeds"]} <= set(POOL)
    assert not [trial for trial in result["trials"] if trial["cost"]["built"]], "the controls had other seeds"
    assert "ledger: submission 1 under the name retrain: 1 different on drawn seeds, alpha spent 0.05" in said
    (line,) = ledger.read(path)
    assert line["seeds"] == result["run"]["settings"]["seeds_from"]
    assert (line["method"], line["verdict"], line["date"]) == ("retrain", "PASS", result["run"]["started"])
    written = [said.encode(), *(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file != secret)]
    assert not [content for content in written if SALT.encode() in content]

    with path.open("a") as file:
        file.write("{\n")
    for more in ((), ("--seeds-from=env:NOT_SET",), (f"--seeds-from={SALT}",)):
        code, said = gate(*more)
        assert code == 4
        assert "gate, 1 of 3" not in said
        assert SALT not in said
    assert len(path.read_text().splitlines()) == 2
