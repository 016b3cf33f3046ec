"""The commands of the store: what is there, what is damaged, what may go."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from audited import age, audit, blobs, of_kind, overwrite, run, snapshot, store, swap, truncate, undisturbed

from harness.cli.main import main
from harness.store.artefacts import Store
from harness.store.inventory import GRACE

#: For pytest to find them here.
FIXTURES = (
    undisturbed,
    store,
)


def test_the_list_says_what_is_there(store, undisturbed, capsys):
    code, said = run(capsys, undisturbed[0], "list")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in said.splitlines()}
    assert list(rows) == ["kind", "data", "model", "planted", "told", "value"]
    assert rows["model"][1] == "tiny:Tiny"
    assert int(rows["model"][3]) == len(of_kind(undisturbed[0], "model"))
    total = sum(size for name, size in snapshot(undisturbed[0]).items())
    sizes = [float(row[4]) * {"kB": 1e3, "MB": 1e6}[row[5]] for name, row in rows.items() if name != "kind"]
    assert sum(sizes) == pytest.approx(total, rel=0.02)


def test_the_size_counts_every_file(store, capsys):
    age(store)
    said = run(capsys, store, "size")[1]
    counts = {line[:14].strip(): int(line[14:].split()[0]) for line in said.splitlines()}
    assert sum(counts.values()) == len(snapshot(store))
    assert counts["blobs"] == len(blobs(store))


@pytest.mark.parametrize("harm", [truncate, overwrite, swap])
def test_verify_names_what_is_damaged_and_prune_removes_it(store, undisturbed, harm, capsys):
    victims = [blobs(store)[0], blobs(store)[-1]]
    harm(victims)
    record = of_kind(store, "planted")[0]
    truncate([record])
    code, said = run(capsys, store, "verify")
    assert code == 1
    named = {line.split()[1] for line in said.splitlines() if line.startswith("damaged: ")}
    assert named == {path.relative_to(store).as_posix() for path in (*victims, record)}
    before = snapshot(store)
    assert run(capsys, store, "prune", "--damaged", "--dry-run")[0] == 0
    assert snapshot(store) == before
    run(capsys, store, "prune", "--damaged")
    assert not any(path.exists() for path in (*victims, record))
    assert run(capsys, store, "verify")[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audit(store) == undisturbed[1]


def test_records_and_blobs_that_changed_places_are_damaged(store, capsys):
    swap(of_kind(store, "model"))
    code, said = run(capsys, store, "verify")
    assert (code, said.count("damaged: ")) == (1, 2)


def test_old_artefacts_go_with_their_blobs_and_what_others_name_stays(store, capsys):
    old, young = of_kind(store, "model")[:4], of_kind(store, "model")[4:]
    for path in old:
        age(path, 40 * 86400)
    named = {json.loads(path.read_bytes())["record"]["blob"] for path in (*young, *of_kind(store, "planted"))}
    run(capsys, store, "prune", "--older-than=30")
    assert of_kind(store, "model") == young
    assert {path.stem for path in blobs(store)} == named
    assert run(capsys, store, "verify")[0] == 0


def test_orphans_of_a_run_at_work_stay(store, capsys):
    victim = of_kind(store, "model")[0]
    blob = json.loads(victim.read_bytes())["record"]["blob"]
    (path,) = store.glob(f"blobs/*/{blob}.safetensors")
    for each in of_kind(store, "model"):
        if json.loads(each.read_bytes())["record"]["blob"] == blob:
            each.unlink()
    assert "1 orphaned" in run(capsys, store, "verify")[1]
    age(path, GRACE / 2)
    run(capsys, store, "prune", "--orphans")
    assert path.exists()
    age(path)
    run(capsys, store, "prune", "--orphans")
    assert not path.exists()


def test_locks_that_are_held_stay(store, capsys):
    from filelock import FileLock

    locks = sorted(store.glob("locks/*.lock"))
    for lock in locks:
        age(lock)
    code = "import sys\nfrom filelock import FileLock\nwith FileLock(sys.argv[1]):\n    print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(locks[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()
        age(locks[0])
        run(capsys, store, "prune", "--temporaries")
        assert sorted(store.glob("locks/*.lock")) == locks[:1]
        holder.communicate("\n")
    FileLock(locks[1]).acquire(timeout=0)


def test_what_was_made_here_is_not_stale(store, capsys):
    assert "would remove 0 files" in run(capsys, store, "prune", "--stale", "--dry-run")[1]


def test_a_record_is_not_imported_on_its_word(tmp_path, store, capsys, monkeypatch):
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nattr = print\n")
    monkeypatch.chdir(tmp_path)
    make = lambda: ({}, None)  # noqa: E731
    Store(store, "theirs").obtain(
        "value", {"method": {"name": "trap:attr", "source": "x"}, "torch": torch.__version__}, make, "t"
    )
    run(capsys, store, "prune", "--stale")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune"], "name what to remove: --older-than, --stale, --damaged, --orphans, --temporaries"),
        (["prune", "--dry-run"], "name what to remove"),
    ],
)
def test_prune_does_nothing_without_a_criterion(store, capsys, arguments, said):
    before = snapshot(store)
    code, text = run(capsys, store, *arguments)
    assert code == 2
    assert said in text
    assert snapshot(store) == before


def test_a_store_that_is_not_there_is_a_sentence_and_is_not_made(tmp_path, capsys):
    code, said = run(capsys, tmp_path / "typo", "list")
    assert (code, said) == (2, f"pytest-unlearning: error: found no store at {tmp_path / 'typo'}\n")
    assert not (tmp_path / "typo").exists()


def test_days_are_a_number(capsys):
    with pytest.raises(SystemExit):
        main(["store", "prune", "--older-than=soon"])
    assert "takes a number of days, not 'soon'" in capsys.readouterr().err
