"""The JSON Schema of results: real ones keep it, damaged ones do not, and its page says the same."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from documents import document
from published import SCHEMA, against_schema

from _pytest_unlearning import OPTIONS
from conftest import TINY, Folder
from harness.api import Outcome
from harness.judging.yardsticks import YARDSTICKS
from harness.report.collected import BLANK

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"
METHODS = """
def forget(model, request):
    return model


def raises(model, request):
    raise RuntimeError('no')
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory, forks):
    """The result of a run with a method that fails, one that raises, all suites, an expectation and two traces."""
    folder = Folder(tmp_path_factory.mktemp("schema"), forks)
    folder.write("methods/mine.py", METHODS)
    folder.write(
        "expected.toml",
        '[[expected]]\nunlearner = "mine:forget"\ntask = "tiny:Tiny"\npoison = "gaussian"\nclaim = "poison"\n'
        'verdict = "FAIL"\nat_most = { mean = 5 }\nreason = "it does nothing"\n',
    )
    run = folder.pytest(
        *TINY, "--poison=gaussian", "--unlearner=mine:forget", "--unlearner=mine:raises", "--audit-seeds=3",
        "-m", "heuristic or audit or contract or relearning", "--audit-expect=expected.toml", contract=True,
    )  # fmt: skip
    assert run.code == 1, run.text
    return run.json


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_real_result_keeps_the_schema(result):
    """Every other run of these tests is held against the schema, too, by `conftest.Folder`."""
    assert against_schema(result) == []
    for part in SCHEMA["properties"].keys() - {"crashes"}:
        assert result[part], f"a part that is empty shows nothing: {part}"
    audits = result["audits"]
    assert {each["verdict"] for each in audits} >= {"FAIL", "INCONCLUSIVE", "ERROR"}
    assert any(each["expected"] for each in audits)
    assert any(each.get("traces") for each in audits)
    assert any(look for each in audits for look in each.get("looks", ()))


def test_every_key_of_the_schema_is_real(result):
    """The keys of an entry are those that a run writes: the schema promises nothing else."""
    told = {name for part in ("audits", "heuristics") for each in result[part] for name in each}
    assert told == SCHEMA["$defs"]["entry"]["properties"].keys()
    for part, name in (("trials", "trial"), ("contract", "line"), ("unlearners", "unlearner")):
        assert {key for each in result[part] for key in each} == SCHEMA["$defs"][name]["properties"].keys()
    (expected,) = expectations(result)
    assert expected.keys() == SCHEMA["$defs"]["expected"]["properties"].keys()


def test_lists_of_words_are_those_of_the_code():
    verdicts = {each.value for each in Outcome} | {BLANK["verdict"]}
    assert set(SCHEMA["$defs"]["verdict"]["enum"]) == verdicts
    recorded = {option.key for option in OPTIONS if option.recorded}
    assert SCHEMA["$defs"]["settings"]["properties"].keys() == recorded | {"tasks", "command"}
    names = SCHEMA["$defs"]["cost"]["properties"]["fractions"]["propertyNames"]["enum"]
    assert set(names) == set(YARDSTICKS)


def of(result, part, **having):
    """The first entry of a part with these values."""
    return next(each for each in result[part] if having.items() <= each.items())


def traces(result):
    return [trace for each in result["audits"] for trace in each.get("traces", {}).values()]


def expectations(result):
    return [each["expected"] for each in result["audits"] if each["expected"]]


DAMAGES = {
    "another schema": lambda r: r.update(schema=2),
    "no audits at all": lambda r: r.pop("audits"),
    "an unknown part": lambda r: r.update(more=[]),
    "an unknown setting": lambda r: r["run"]["settings"].update(more=1),
    "a time of day that is none": lambda r: r["run"].update(started="yesterday"),
    "a verdict of another kind": lambda r: of(r, "audits", verdict="FAIL").update(verdict="MAYBE"),
    "a verdict without a reason": lambda r: of(r, "audits", verdict="FAIL").pop("reason"),
    "a verdict without looks": lambda r: of(r, "audits", verdict="FAIL").pop("looks"),
    "a number in words": lambda r: of(r, "audits", verdict="FAIL").update(estimate="0.8"),
    "an interval of one end": lambda r: of(r, "audits", verdict="FAIL")["interval"].pop(),
    "seeds that are no integers": lambda r: of(r, "audits", verdict="FAIL").update(seeds=[0.5]),
    "an error without its cell": lambda r: of(r, "audits", verdict="ERROR").pop("poison"),
    "an audit that nobody required": lambda r: of(r, "audits", verdict="FAIL").pop("as_required"),
    "an audit that only informs": lambda r: of(r, "audits", verdict="FAIL").update(poison_verdict="FAIL"),
    "a usual metric that gates": lambda r: r["heuristics"][0].update(as_required=True),
    "an unknown model": lambda r: of(r, "audits", verdict="FAIL")["values"].update(other=[1.0]),
    "a trace without its name": lambda r: traces(r)[0].pop("name"),
    "a trial without its compute": lambda r: r["trials"][0].update(cost=None),
    "an unknown yardstick": lambda r: r["trials"][0]["cost"]["fractions"].update(joules=1.0),
    "a line that is kept in words": lambda r: r["contract"][0].update(kept="yes"),
    "a hash that is none": lambda r: r["unlearners"][0].update(source_sha256="abc"),
    "a cell that was half asked for": lambda r: r["asked"]["audits"][0].pop(),
    "an expectation without a reason": lambda r: expectations(r)[0].pop("reason"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_result_is_refused(result, damage):
    damaged = copy.deepcopy(result)
    damage(damaged)
    assert damaged != result
    assert against_schema(damaged)


def test_the_page_says_what_the_schema_says():
    """Each part of the schema is a table of the page, with the same words in the same order."""
    text = PAGE.read_text(encoding="utf-8")
    parts = {"": SCHEMA, **SCHEMA["$defs"]}
    rows = {
        f"| `{name}` | {said['description']} |"
        for part in parts.values()
        for name, said in part.get("properties", {}).items()
        if isinstance(said, dict) and "description" in said
    }
    assert {row for row in rows if row not in text} == set()
    shown = {line for line in text.splitlines() if line.startswith("| `")}
    assert shown == rows


def test_the_page_finds_the_file():
    """The command on the page that prints the schema does print it."""
    (line,) = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if "schema.json" in line
               and line.startswith("    python -c ")]  # fmt: skip
    code = line.removeprefix("python -c ").strip('"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == SCHEMA


@pytest.mark.parametrize("heuristics", [False, True])
def test_made_up_results_keep_the_schema(heuristics):
    assert against_schema(json.loads(json.dumps(document(("a", "b", "c"), heuristics=heuristics)))) == []
