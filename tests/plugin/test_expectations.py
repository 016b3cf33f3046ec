"""Verdicts that are expected: what the file may say, what it does to a run, and how it is written."""

import tomllib

import pytest

from conftest import TINY
from harness.api import UnlearningError
from harness.plugin.expectations import Expectations, deviation
from harness.plugin.limits import limit_of

ENTRY = """\
[[expected]]
unlearner = "{}"
task = "tiny:Tiny"
poison = "backdoor:size=1"
verdict = "{}"
reason = "{}"
"""
DOES_NOTHING = ENTRY.format("identity", "FAIL", "It hands the model back.")
GD, IDENTITY, RETRAIN = "--unlearner=gd:lr=0.01", "--unlearner=identity", "--unlearner=retrain"
BIG = "--audit-budget=1.5"  # with which retraining itself passes everything


@pytest.fixture
def expect(tmp_path):
    def write(text, updating=False):
        path = tmp_path / "expected.toml"
        path.write_text(text)
        return Expectations(path, updating)

    return write


def audit(verdict, unlearner="identity", claim="poison", **more):
    return {
        "unlearner": unlearner, "task": "tiny:Tiny", "poison": "backdoor:size=1", "claim": claim, "verdict": verdict,
        "reason": "poison-left", "estimate": 1.0, "interval": [0.9, None], "margin": 0.2, "seeds": [0, 1, 2],
        "expected": None, **more,
    }  # fmt: skip


# ---- the file


def test_an_expectation_is_about_the_poison_unless_it_says_otherwise(expect):
    found = expect("# why\n\n" + DOES_NOTHING)
    expected = found.of(audit("FAIL"))
    assert (expected.verdict, expected.reason, expected.line) == ("FAIL", "It hands the model back.", 3)
    assert found.of(audit("FAIL", claim="accuracy")) is None
    assert found.of(audit("FAIL", unlearner="gd")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[expected]\n", "cannot be read: .* line 1"),
        ("tolerance = 3\n", "unknown key 'tolerance'; the file may hold only"),
        ("expected = [{unlearner = 'scrub'}]\n", "write every expectation as an .* entry of its own"),
        ("expected = 3\n", "write every expectation as an .* entry of its own"),
        ("[expected]\nunlearner = 'scrub'\n", "write every expectation as an .* entry of its own"),
        (DOES_NOTHING + "vedict = 'FAIL'\n", "line 1: unknown key 'vedict'; the keys are unlearner, .*, reason"),
        (DOES_NOTHING.replace("reason", "#"), "line 1: the key 'reason' is missing, empty or not a text: explain why"),
        ("\n" + ENTRY.format("gd", "FAIL", " "), "line 2: the key 'reason' is missing, empty or not a text"),
        (DOES_NOTHING.replace('"identity"', "3"), "line 1: the key 'unlearner' is missing, empty or not a text"),
        (DOES_NOTHING.replace("task", "#"), "line 1: the key 'task' is missing, empty or not a text"),
        (ENTRY.format("gd", "fail", "x"), "line 1: the verdict must be one of PASS, FAIL, INCONCLUSIVE, not 'fail'"),
        (ENTRY.format("gd", "ERROR", "x"), "not 'ERROR'; an ERROR is red whatever is expected"),
        (DOES_NOTHING + "claim = 'privacy'\n", "the claim must be one of poison, .*, relearning, not 'privacy'"),
        (DOES_NOTHING + "at_most = '1'\n", "at_most must be a number that is not negative, or such numbers by trace"),
        (DOES_NOTHING + "at_most = true\n", "line 1: at_most must be a number"),
        (DOES_NOTHING + "at_most = -1\n", "line 1: at_most must be a number"),
        (DOES_NOTHING + "at_most = nan\n", "line 1: at_most must be a number"),
        (ENTRY.format("gd", "PASS", "x") + "at_most = 1\n", "only a FAIL can have at_most; the verdict here is PASS"),
        (DOES_NOTHING + "at_most = {}\n", "line 1: at_most must be a number .*, or such numbers by trace, not {}"),
        (DOES_NOTHING + "at_most = {mean = -1}\n", "line 1: at_most must be a number .* not {'mean': -1}"),
        (DOES_NOTHING + "at_most = {mean = 1, success = 'x'}\n", "line 1: at_most must be a number"),
        (DOES_NOTHING + "\n" + DOES_NOTHING, "line 8: identity on tiny:Tiny, .* already has an entry in line 1"),
    ],
)  # fmt: skip
def test_what_the_file_must_not_say_is_said_in_a_sentence_with_its_line(expect, text, said):
    with pytest.raises(UnlearningError, match=said) as caught:
        expect(text)
    assert str(caught.value).startswith("--audit-expect: ")
    assert "expected.toml" in str(caught.value)


def test_a_missing_file_is_refused_unless_it_is_to_be_written(tmp_path):
    with pytest.raises(UnlearningError, match="cannot be read"):
        Expectations(tmp_path / "none.toml")
    assert "[[expected]]" in Expectations(tmp_path / "none.toml", updating=True).updated([audit("FAIL")], [])


# ---- writing it


def test_what_still_holds_stays_as_it_was_written(expect):
    text = "# The head.\n\n# Known since 2024.\n" + DOES_NOTHING + "at_most = 2\n# and a word behind\n"
    assert expect(text, updating=True).updated([audit("FAIL")], []) == text


def test_what_changed_or_is_new_is_written_and_asks_for_a_reason(expect):
    found = expect("# The head.\n\n" + DOES_NOTHING + "\n" + ENTRY.format("gone", "FAIL", "x"), updating=True)
    seen = [audit("INCONCLUSIVE"), audit("FAIL", "gd", "accuracy"), audit("PASS", "gd"), audit("PASS", "gone")]
    text = found.updated(seen, [])
    entries = tomllib.loads(text)["expected"]
    assert [(e["unlearner"], e["claim"], e["verdict"], e["reason"]) for e in entries] == [
        ("identity", "poison", "INCONCLUSIVE", ""), ("gd", "accuracy", "FAIL", ""),
    ]  # fmt: skip
    assert text.startswith("# The head.\n")
    assert "# was FAIL: It hands the model back." in text
    assert "# poison-left: estimate 1, limit 0.2, n = 3" in text
    with pytest.raises(UnlearningError, match="line 5: the key 'reason' is missing"):
        expect(text)
    assert expect(text, updating=True).updated(seen, []) == text, "written twice it is the same"


def test_what_did_not_run_or_raised_stands(expect):
    text = DOES_NOTHING + "\n" + ENTRY.format("gd", "FAIL", "x")
    assert expect(text, updating=True).updated([audit("ERROR")], []) == text


def test_controls_are_not_written(expect):
    control = audit("FAIL")
    del control["expected"]
    assert "[[" not in expect("# nothing\n", updating=True).updated([control], [])


def test_any_text_survives_being_written(expect):
    name = 'odd:label="a, \\"b\\"\\n",é=#1'
    (entry,) = tomllib.loads(expect("", updating=True).updated([audit("FAIL", name)], []))["expected"]
    assert entry["unlearner"] == name


# ---- runs


def test_an_expected_failure_is_green_and_everything_else_is_not(trained):
    trained.write("expected.toml", DOES_NOTHING)
    args = (*TINY, "--audit-seeds=5", "--audit-expect=expected.toml")
    run = trained.pytest(*args, IDENTITY)
    assert run.code == 0, run.text
    assert run.counts()["expected"] == 1
    assert run.counts()["passed"] == 2
    assert "failed" not in run.counts()
    assert "FAIL as expected" in run.text
    assert "It hands the model back." in run.text
    found = {key[2]: each["expected"] for key, each in run.audits.items()}
    assert found["poison"] == {"verdict": "FAIL", "reason": "It hands the model back.", "line": 1, "met": True}
    assert found["accuracy"] is None
    # What failed as it was expected to is no failure to come back to.
    again = trained.pytest(*args, IDENTITY, GD, "-n2")
    assert again.code == 1
    assert (again.counts()["failed"], again.counts()["expected"]) == (1, 1)
    last = trained.pytest(*args, IDENTITY, GD, "--lf")
    assert list(last.audits) == [("gd:lr=0.01", "backdoor:size=1", "poison")]
    assert last.code == 1


def test_better_than_expected_is_red_until_the_file_says_so(trained):
    trained.write("expected.toml", ENTRY.format("retrain", "FAIL", "Nobody has tried."))
    args = (*TINY, RETRAIN, BIG, "--audit-expect=expected.toml", "-k", "forgotten")
    run = trained.pytest(*args)
    assert run.code == 1
    assert run.counts()["failed"] == 1
    assert "FAIL is expected (expected.toml, line 1: Nobody has tried.), but it is PASS. It does better" in run.text
    assert "0 % of the poison's effect is left" in run.text
    assert run.audits["retrain", "backdoor:size=1", "poison"]["expected"]["met"] is False
    updated = trained.pytest(*args, "--audit-expect-update")
    assert updated.code == 0, updated.text
    assert "[[expected]]" not in (trained.path / "expected.toml").read_text()
    assert trained.pytest(*args).code == 0


def test_inconclusive_is_no_expected_failure(trained):
    # Nothing can pass at three seeds.
    trained.write("expected.toml", ENTRY.format("retrain", "FAIL", "x"))
    args = (*TINY, RETRAIN, BIG, "--audit-seeds=3", "--audit-expect=expected.toml", "-k", "forgotten")
    run = trained.pytest(*args)
    assert run.code == 1
    assert run.counts()["inconclusive"] == 1
    assert "but it is INCONCLUSIVE. The evidence does not show it any more" in run.text
    softened = trained.pytest(*args, "--audit-inconclusive=warn")
    assert (softened.code, softened.counts()["failed"]) == (1, 1)
    trained.write("expected.toml", ENTRY.format("retrain", "INCONCLUSIVE", "Three seeds decide nothing."))
    run = trained.pytest(*args)
    assert run.code == 0, run.text
    assert run.counts()["expected"] == 1


def test_an_error_is_red_whatever_is_expected(trained):
    trained.write("methods/mine.py", "def forget(model, request):\n    raise RuntimeError('no such layer')\n")
    trained.write("expected.toml", ENTRY.format("mine:forget", "FAIL", "It is known to be bad."))
    args = (*TINY, "--unlearner=mine:forget", "--audit-expect=expected.toml", "-k", "forgotten")
    run = trained.pytest(*args)
    assert run.code == 1
    assert run.counts()["error"] == 1
    assert "ERROR, but FAIL was expected" in run.text
    update = trained.pytest(*args, "--audit-expect-update")
    assert update.code == 1
    assert "It is known to be bad." in (trained.path / "expected.toml").read_text()


def test_what_no_audit_can_meet_is_red_and_what_is_not_audited_is_told(trained):
    misspelled = DOES_NOTHING.replace("backdoor:size=1", "backdor")
    trained.write("expected.toml", "\n".join([DOES_NOTHING, ENTRY.format("scrub", "FAIL", "x"), misspelled]))
    args = (f"{TINY[0]}", IDENTITY, "--audit-expect=expected.toml", "--audit-seeds=3", "-k", "forgotten")
    # With --poison the file may speak of other poisons.
    chosen = trained.pytest(*args, TINY[1])
    assert chosen.code == 0, chosen.text
    assert "2 expectations are about audits that are not part of this run" in chosen.text
    # Without, the poisons are the task's own: nothing is called backdor, and backdoor:size=1 does not run by default.
    default = trained.pytest(*args)
    assert default.code == 1
    assert "backdor, poison (expected.toml, line 15): matches no audit of this method" in default.text
    # What -k leaves out is not missed.
    trained.write("expected.toml", DOES_NOTHING)
    left_out = trained.pytest(*TINY, IDENTITY, "--audit-expect=expected.toml", "--audit-seeds=3", "-k", "budget")
    assert left_out.code == 0, left_out.text


def test_controls_do_what_their_tests_say_and_not_what_is_expected(trained):
    file = trained.write("expected.toml", DOES_NOTHING.replace("FAIL", "PASS"))
    run = trained.pytest(*TINY, "--audit-expect=expected.toml", "-k", "caught")
    assert run.code == 0, run.text
    update = trained.pytest(*TINY, "--audit-expect=expected.toml", "--audit-expect-update", "-k", "caught")
    assert update.code == 0
    assert tomllib.loads(file.read_text()) == tomllib.loads(DOES_NOTHING.replace("FAIL", "PASS"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--audit-expect=none.toml"], "none.toml cannot be read"),
        (["--audit-expect=no/dir.toml"], "--audit-expect: the directory of no/dir.toml is missing"),
        (["--audit-expect-update"], "--audit-expect-update: name the file to write with --audit-expect=FILE"),
    ],
)
def test_bad_options_are_one_sentence_at_start(folder, args, said):
    run = folder.pytest(*TINY, IDENTITY, *args)
    assert run.code == 4
    assert said in run.text
    assert "Traceback" not in run.text


# ---- how bad an expected failure may be


@pytest.mark.parametrize(
    ("test", "estimate", "interval", "limit"),
    [
        ("retention", 0.803, [0.673, 0.96], 1.1),  # 1.056
        ("retention", 0.5, [0.4, 0.6], 0.66),
        ("retention", 1.0, [0.9, None], 2.0),
        ("retention", 12.0, [10.0, 20.1], 23),
        ("non-inferiority", -0.087, [-0.1, -0.07], 11),
        ("non-inferiority", -0.012, [-0.021, -0.011], 2.4),  # 2.31 points
        ("non-inferiority", -0.087, [None, -0.07], 18),
        ("budget", 0.3, [0.3, 0.3], 0.33),
        ("budget", 0.3, [None, None], 0.33),
        ("retention", None, [None, None], float("inf")),
    ],
)
def test_the_limit_that_is_written_leaves_room_for_noise(test, estimate, interval, limit):
    assert limit_of({"test": test, "estimate": estimate, "interval": interval}) == limit


def test_a_failure_that_is_worse_than_its_limit_is_not_expected(expect):
    found = expect(DOES_NOTHING + "at_most = 1.1\n")
    expected = found.of(audit("FAIL"))
    assert expected.plain["at_most"] == 1.1
    assert expected.met_by(audit("FAIL", estimate=1.1))
    assert not expected.met_by(audit("FAIL", estimate=1.2))
    assert not expected.met_by(audit("FAIL", estimate=None)), "it diverged"
    sentence = deviation(expected, audit("FAIL", estimate=1.25), found.path)
    assert sentence == (
        "FAIL of at most 1.10 of the effect is expected (expected.toml, line 1: It hands the model back.), but it is "
        "1.25 of the effect, 0.15 of the effect more."
    )
    diverged = deviation(expected, audit("FAIL", estimate=None), found.path)
    assert diverged.endswith("It hands the model back.), but it is a FAIL with no finite estimate.")
    points = audit("FAIL", estimate=-0.44, test="non-inferiority")
    assert "but it is 44.0 points of accuracy, 42.9 points of accuracy more." in deviation(expected, points, found.path)


def test_a_limit_is_written_where_none_stood_and_a_broken_one_asks_for_a_reason(expect):
    text = expect(DOES_NOTHING, updating=True).updated([audit("FAIL", interval=[0.9, 1.2])], [])
    assert text == DOES_NOTHING.replace('"FAIL"\n', '"FAIL"\nat_most = 1.4\n')
    again = expect(text, updating=True)
    assert again.updated([audit("FAIL", estimate=1.3)], []) == text, "it still holds"
    (entry,) = tomllib.loads(again.updated([audit("FAIL", estimate=1.5, interval=[1.4, 1.6])], []))["expected"]
    assert (entry["at_most"], entry["reason"]) == (1.8, "")


def traced(verdict="FAIL", decides="second moment", mean=0.76, second=-2.8):
    """An audit of a poison with two traces, in different units."""
    traces = {
        "score": {"name": "mean", "test": "retention", "estimate": mean, "interval": [0.5, 1.0]},
        "squares": {"name": "second moment", "test": "exact-null", "estimate": second, "interval": [-4.2, -1.4]},
    }
    of = next(trace for trace in traces.values() if trace["name"] == decides)
    more = {key: of[key] for key in ("test", "estimate", "interval")}
    return audit(verdict, trace=decides, traces=traces, **more)


def test_a_limit_holds_for_the_trace_that_it_names_whichever_decides(expect):
    found = expect(DOES_NOTHING + "at_most = {mean = 1.2}\n")
    expected = found.of(traced())
    assert expected.plain == {
        "verdict": "FAIL", "at_most": {"mean": 1.2}, "reason": "It hands the model back.", "line": 1,
    }  # fmt: skip
    assert expected.met_by(traced()), "2.8 standard deviations are no fraction"
    assert expected.met_by(traced(mean=1.2))
    assert not expected.met_by(traced(mean=1.3))
    assert not expected.met_by(traced(mean=-1.3))
    assert not expected.met_by(traced(mean=None))
    assert not expected.met_by(traced("INCONCLUSIVE"))
    assert "it is 1.30 of the effect (mean), 0.10 of the effect (mean) more." in deviation(
        expected, traced(mean=1.3), found.path
    )
    other = expect(DOES_NOTHING + 'at_most = {"second moment" = 3}\n')
    assert other.of(traced()).met_by(traced(decides="mean", mean=9))
    assert "it is 3.5 standard deviations (second moment), 0.5 standard deviations (second moment) more" in deviation(
        other.of(traced()), traced(second=3.5), other.path
    )


@pytest.mark.parametrize(
    ("limit", "seen", "sentence"),
    [
        ("99", traced(), 'limit them by name, as in at_most = { "mean" = ..., "second moment" = ... }'),
        ("{mean = 99, variance = 99}", traced(), 'by name, as in at_most = { "mean" = ..., "second moment" = ... }'),
        ("{mean = 99}", audit("FAIL"), "there is one trace only; write at_most as a number"),
    ],
)
def test_a_limit_on_no_trace_is_not_met_and_says_what_to_write(expect, limit, seen, sentence):
    found = expect(DOES_NOTHING + f"at_most = {limit}\n")
    expected = found.of(seen)
    assert not expected.met_by(seen)
    said = deviation(expected, seen, found.path)
    assert said.startswith("at_most cannot be compared (expected.toml, line 1): ")
    assert said.endswith(f"{sentence}.")
    held = {**seen, "expected": {**expected.plain, "met": False}}
    ((line, _),) = found.lines([held], [], [])
    assert line.endswith(sentence)
    without = expect(DOES_NOTHING)
    assert without.of(seen).met_by(seen), "without a limit there is nothing to compare"


def test_an_update_limits_every_trace_and_a_regression_of_any_is_red(expect):
    text = expect(DOES_NOTHING, updating=True).updated([traced()], [])
    assert text == DOES_NOTHING.replace('"FAIL"\n', '"FAIL"\nat_most = { "mean" = 1.1, "second moment" = 4.7 }\n')
    again = expect(text, updating=True)
    assert again.updated([traced(decides="mean")], []) == text, "it still holds"
    assert not again.of(traced()).met_by(traced(second=-5.0, decides="mean"))
    assert not again.of(traced()).met_by(traced(mean=1.2))
    both = deviation(again.of(traced()), traced(mean=1.2, second=-5.0), again.path)
    assert both.startswith("FAIL of at most 1.10 of the effect (mean) and 4.7 standard deviations (second moment) is")
    new = tomllib.loads(expect("", updating=True).updated([traced(mean=None)], []))["expected"][0]
    assert new["at_most"] == {"mean": 1.1, "second moment": 4.7}
    worse = again.updated([traced(second=-5.0)], [])
    assert "# was FAIL, at most 1.1 (mean), at most 4.7 (second moment): It hands the model back." in worse


def test_a_trace_that_passed_may_come_out_anywhere_within_the_tolerance():
    trace = {"test": "retention", "estimate": 0.01, "interval": [-0.02, 0.04], "margin": 0.2}
    assert limit_of(trace) == 0.2


def test_a_file_from_windows_is_read(tmp_path):
    path = tmp_path / "expected.toml"
    path.write_bytes(b"\xef\xbb\xbf" + DOES_NOTHING.replace("\n", "\r\n").encode())
    assert Expectations(path).of(audit("FAIL")).reason == "It hands the model back."


def test_a_failure_that_became_worse_is_red(trained):
    args = (*TINY, IDENTITY, "--audit-seeds=3", "--audit-expect=expected.toml", "-k", "forgotten")
    trained.write("expected.toml", DOES_NOTHING + "at_most = {success = 0.5}\n")
    run = trained.pytest(*args)
    assert run.code == 1
    assert "FAIL of at most 0.50 of the effect (success) is expected (expected.toml, line 1" in run.text
    assert "FAIL of 1.00 of the effect (success), but at most 0.50 of the effect (success) was expected" in run.text
    assert trained.pytest(*args, "--audit-expect-update").code == 0
    (entry,) = tomllib.loads((trained.path / "expected.toml").read_text())["expected"]
    assert entry["at_most"]["success"] > 1
    assert set(entry["at_most"]) == {"success", "own class"}
