"""The summary of a step: what failed comes first, it fits, and nobody's text becomes Markdown."""

from __future__ import annotations

from documents import document

from harness.report.github import LIMIT, append_summary, escape, markdown


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ") and "**" in line]


def test_what_failed_comes_first():
    text = markdown(document(methods=("good", "bad", "dear")))
    found = [line.split("**")[1] for line in rows(text)]
    assert found == sorted(found)  # FAIL before PASS
    assert found.count("FAIL") == 2
    assert text.startswith("## Unlearning audits\n\n2 of 9 audits did not reach the required verdict: 2 FAIL, 7 PASS.")
    assert "harness.load_models('bad', seed=2)" in text
    table = [line for line in text.splitlines() if line.startswith("|")][:11]
    assert {line.replace("\\|", "").count("|") for line in table} == {10}


def test_it_fits_however_much_there_is():
    result = document(methods=[f"method-{i}" for i in range(4)])
    result["audits"] = [
        {**a, "unlearner": f"{a['unlearner']}-{'x' * 99}{i}"} for i in range(900) for a in result["audits"]
    ]
    text = markdown(result)
    assert len(text.encode()) <= LIMIT
    assert "more audits do not fit here." in text
    assert "FAIL" in rows(text)[0]
    short = markdown(result, 3000)
    assert len(short.encode()) <= 3000
    assert markdown(result, 10) == ""


def test_text_is_shown_as_it_is():
    assert escape("a|b\n`c` <b> *d*") == "a\\|b \\`c\\` &lt;b&gt; \\*d\\*"
    result = document(methods=("<script>|x",))
    assert "<script>" not in markdown(result).replace("load_models('<script>|x'", "")


def test_nothing_judged_is_nothing_said():
    empty = {"audits": [], "heuristics": [], "contract": []}
    assert markdown(empty) == ""
    kept = {"unlearner": "m", "line": "budget", "kept": True, "sentence": ""}
    assert "m: keeps all 1 lines" in markdown({**empty, "contract": [kept]})


def test_errors_have_their_reason():
    result = document()
    result["audits"][0] = {
        "unlearner": "m", "task": "t", "poison": "p", "claim": "cost", "verdict": "ERROR", "reason": "RuntimeError: no",
        "as_required": False,
    }  # fmt: skip
    text = markdown(result)
    assert rows(text)[0].startswith("| ❌ **ERROR** | m | t | p | cost | RuntimeError: no |")


def test_it_is_appended_and_stays_below_the_limit(tmp_path):
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    append_summary(document(), target)
    assert target.read_text().startswith("before\n## Unlearning audits")
    target.write_bytes(b"x" * (LIMIT - 50))
    append_summary(document(), target)
    assert target.stat().st_size == LIMIT - 50
