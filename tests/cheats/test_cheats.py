"""Methods that cheat, or are broken: what catches each of them, in an ordinary run and in an isolated one.

An ordinary run may be fooled by what docs/security.md says. An isolated run is green for none of them. All methods of a
kind run side by side, so that one that leaves something behind would spoil the others, and `gd` among them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from forks import Forks
from labs import BEHIND_WALLS

from conftest import TINY, Folder, Run

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WIDE = ("--task=wide:Wide", TINY[1])

ENDED = "tried to end its own test by"
REPEATED = "it must keep nothing from one call to the next"
LEFT = "it must put back what it sets"
REPLACED = "it must leave them as they are"
TOUCHED = "it must leave the store's and the harness's files alone"
RUNNING = "it must end what it starts"
HOOKS = "it must remove them"
LATE = "did not end within"
ODD = "a model whose outputs differ"
#: Whichever comes first: the first request is asked again, or the model is held against R.
COPIED = (REPEATED, "not to be a copy")
#: What is said of each in an ordinary run, or one of these.
CAUGHT = {
    "ends:skips": ENDED,
    "ends:xfails": ENDED,
    "ends:imports_or_skips": ENDED,
    "ends:exits_pytest": ENDED,
    "ends:exits_python": ENDED,
    "ends:ends_the_process": ENDED,
    "ends:skips_as_unittest": ENDED,
    "ends:says_that_another_is_at_it": ENDED,
    "copies:from_frames": (*COPIED, "raising Gone"),  # where what it asks a lab for is not in memory
    "copies:from_the_garbage_collector": COPIED,
    "copies:from_the_store": TOUCHED,
    "copies:from_the_store_unseen": TOUCHED,
    "carries:in_a_global": REPEATED,
    "carries:in_sys": REPEATED,
    "carries:in_a_file": REPEATED,
    "leaves:default_device": LEFT,
    "leaves:default_dtype": LEFT,
    "leaves:anomaly_mode": LEFT,
    "leaves:no_mkldnn": LEFT,
    "leaves:cudnn_benchmark": LEFT,
    "leaves:numpy_errors": LEFT,
    "leaves:no_gradients": LEFT,
    "leaves:another_folder": LEFT,
    "leaves:environment": LEFT,
    "leaves:a_hook_on_torch": HOOKS,
    "leaves:another_loss": REPLACED,
    "leaves:a_thread": RUNNING,
    "leaves:a_process": RUNNING,
    "leaves:a_layer_of_its_own": ODD,
    "patches:the_meter": REPLACED,
    "patches:the_measure": REPLACED,
    "patches:the_judge": REPLACED,
    "patches:the_code": REPLACED,
    "patches:the_outcomes": REPLACED,
    "patches:the_table_of_claims": REPLACED,
    "patches:the_store": TOUCHED,
}
#: What an ordinary run may be fooled by: it reads the store through another program.
ISOLATED_ONLY = ("copies:by_another_program",)
#: What an ordinary run stops, and what only an isolated one does: it catches every error, that of the time limit, too.
HANGS, HOLDS_ON = "hangs:sleeps", "hangs:holds_on"
#: Full retraining, hidden; tests/cheats/test_hidden_compute.py has what an ordinary run makes of it.
COSTS = (
    "costs:behind_an_object",
    "costs:behind_a_number",
    "costs:in_one_forward_pass",
    "costs:in_a_thread",
    "costs:written_out",
    "costs:on_odd_seeds",
    "costs:compiled",
    "costs:in_numpy",
    "costs:in_a_child",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Folder:
    """A folder with the cheats in it."""
    folder = Folder(tmp_path_factory.mktemp("cheats"), forks)
    for path in HERE.glob("*.py"):
        if not path.name.startswith("test_"):
            shutil.copy(path, folder.path)
    return folder


def audited(place: Folder, *arguments: str, seconds: int = 20, seeds: int = 5) -> Run:
    """Audit on as many seeds as a PASS needs, or on as many as an error or a FAIL of the budget does: three."""
    limits = (f"--audit-seeds={seeds}", f"--audit-timeout={seconds}", "--tb=line")
    run = place.pytest(*arguments, *limits, "-n2")
    assert run.code == 1, run.text
    return run


@pytest.fixture(scope="module")
def ordinary(place: Folder) -> Run:
    return audited(place, *TINY, "--unlearner=gd", *(f"--unlearner={name}" for name in CAUGHT))


@pytest.fixture(scope="module")
def isolated(place: Folder) -> Run:
    names = ("gd", *CAUGHT, *ISOLATED_ONLY)
    store = f"--audit-store={place.path / 'behind-walls'}"
    return audited(place, *TINY, "--audit-isolated", store, *(f"--unlearner={name}" for name in names))


def verdicts(run: Run, name: str) -> dict[str, str]:
    return {claim: audit["verdict"] for (unlearner, _, claim), audit in run.audits.items() if unlearner == name}


@pytest.mark.parametrize("name", CAUGHT)
def test_an_ordinary_run_catches_it(ordinary: Run, name: str):
    found, said = verdicts(ordinary, name), CAUGHT[name]
    sentences = (said,) if isinstance(said, str) else said
    assert set(found) == {"poison", "accuracy", "cost"}
    assert set(found.values()) == {"ERROR"}
    about = [line for line in ordinary.text.splitlines() if f"'{name}'" in line]
    assert any(sentence in line for line in about for sentence in sentences), about or ordinary.text
    assert said == ENDED or not any(ENDED in line and "raising Gone" not in line for line in about), about


def test_what_an_ordinary_run_does_not_catch_stands_in_the_docs():
    docs = (ROOT / "docs" / "security.md").read_text()
    for name in (*ISOLATED_ONLY, HOLDS_ON):
        assert f"`{name.partition(':')[2]}`" in docs


def test_no_cheat_spoils_an_honest_method(ordinary: Run, place: Folder):
    alone = place.pytest(*TINY, "--unlearner=gd", "--audit-seeds=5", f"--audit-store={place.path / 'alone'}")
    numbers = ("claim", "verdict", "estimate", "interval", "seeds", "values", "looks")
    mine, own = (
        [{name: audit[name] for name in numbers} for audit in run.judged if audit["unlearner"] == "gd"]
        for run in (ordinary, alone)
    )
    assert mine == own != []


@BEHIND_WALLS
@pytest.mark.parametrize("name", [*CAUGHT, *ISOLATED_ONLY])
def test_no_cheat_is_green_in_an_isolated_run(isolated: Run, name: str):
    assert "ERROR" not in verdicts(isolated, "gd").values(), "methods do run in there"
    found = verdicts(isolated, name)
    assert set(found) == {"poison", "accuracy", "cost"}
    assert set(found.values()) != {"PASS"}
    assert found["poison"] in ("ERROR", "FAIL")


@pytest.mark.parametrize("isolated", [False, pytest.param(True, marks=BEHIND_WALLS)])
def test_a_method_that_hangs_is_stopped(place: Folder, isolated: bool):
    names = (HANGS, HOLDS_ON) if isolated else (HANGS,)
    store = f"--audit-store={place.path / f'hanging-{isolated}'}"
    methods = (f"--unlearner={name}" for name in names)
    # Nothing honest is beside them, so the time may be short.
    run = audited(place, *TINY, store, *(["--audit-isolated"] if isolated else []), *methods, seconds=2, seeds=3)
    for name in names:
        assert verdicts(run, name) == dict.fromkeys(("poison", "accuracy", "cost"), "ERROR")
        assert any(LATE in line for line in run.text.splitlines() if f"'{name}'" in line), run.text


@BEHIND_WALLS
def test_hidden_retraining_is_over_the_budget_in_an_isolated_run(place: Folder):
    store = f"--audit-store={place.path / 'wide-behind-walls'}"
    run = audited(place, *WIDE, store, "--audit-isolated", *(f"--unlearner={name}" for name in COSTS), seeds=3)
    assert {name: verdicts(run, name)["cost"] for name in COSTS} == dict.fromkeys(COSTS, "FAIL")


def test_a_method_that_patches_the_statistics_at_its_import_is_refused(place: Folder):
    place.write(
        "patched.py",
        "import importlib\n\nequivalence = importlib.import_module('harness.statistics.equivalence')\n"
        "equivalence.retention = lambda *args, **kwargs: None\n\n\ndef forget(model, request):\n    return model\n",
    )
    run = place.pytest(*TINY, "--unlearner=patched:forget")
    assert run.code == 4
    assert "replaced harness.statistics.equivalence.retention" in run.text
