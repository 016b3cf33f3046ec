"""A store through its life: full and read-only disks, damage, killed writes, other versions; and its commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import harness
from conftest import ROOT, SUITES, TINY
from harness.api import UnlearningError
from harness.cli.main import main
from harness.judging.plan import Plan
from harness.registry import cells, resolve
from harness.store.artefacts import DamagedArtefact, Store
from harness.store.files import Local, Remote, files_at
from harness.store.inventory import GRACE, Inventory
from harness.studies.study import Study
from harness.trials.lab import Lab

GD = "gd:lr=0.01"
#: What each test starts from or compares with: three seeds of one method on the task that trains in milliseconds.
AUDIT = {"task": "tiny:Tiny", "poison": "backdoor:size=1", "seeds": 3, "device": "cpu"}


def audit(store, unlearner=GD):
    """Return the verdicts without what differs from run to run by its nature: seconds."""
    found = harness.audit(unlearner, store=store, **AUDIT)
    return [
        (v.measure.name, v.outcome, v.reason, v.estimate, v.interval, v.values, v.seeds,
         {name: n for name, n in v.details.items() if "seconds" not in name})
        for v in found
    ]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A store after an audit, and what that said."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    return store, audit(store)


@pytest.fixture
def store(undisturbed, tmp_path):
    """A copy of that store without the readings, so that every model is read when it is audited again."""
    copy = tmp_path / "store"
    shutil.copytree(undisturbed[0], copy)
    for path in copy.glob("records/*/*.json"):
        if json.loads(path.read_bytes())["record"]["kind"] == "value":
            path.unlink()
    return copy


def of_kind(store, kind):
    """Return the records of a kind, in order."""
    paths = sorted(store.glob("records/*/*.json"))
    return [path for path in paths if json.loads(path.read_bytes())["record"]["kind"] == kind]


def blobs(store):
    return sorted(store.glob("blobs/*/*.safetensors"))


def snapshot(store):
    return {path.relative_to(store).as_posix(): path.stat().st_size for path in store.rglob("*") if path.is_file()}


def age(path, seconds=2 * GRACE):
    os.utime(path, (time.time() - seconds,) * 2)


def run(capsys, *arguments):
    code = main(["store", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out + said.err


# ---- damage: after a rerun the verdicts are those of an undisturbed run


def truncate(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(paths):
    one, other = paths[0], paths[-1]
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


def overwrite(paths):
    for path in paths:
        path.write_bytes(b"something else altogether")


def remove(paths):
    for path in paths:
        path.unlink()


def become_folders(paths):
    for path in paths[:3]:
        path.unlink()
        path.mkdir()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("harm", [truncate, swap, overwrite, remove, become_folders], ids=lambda f: f.__name__)
@pytest.mark.parametrize("what", ["model", "planted", "blobs"])
def test_damage_changes_no_verdict(store, undisturbed, what, harm):
    harm(blobs(store) if what == "blobs" else of_kind(store, what))
    assert audit(store) == undisturbed[1]
    assert audit(store) == undisturbed[1]


def test_foreign_files_change_nothing_and_are_left_alone(store, undisturbed, capsys):
    foreign = ["notes.txt", "records/ab/readme", "blobs/model.pt", "records/zz/x.json", "locks/.keep", "more/x.json",
               f"blobs/ab/{'c' * 64}.safetensors", f"records/ab/{'A' * 64}.json", ".hidden.tmp"]  # fmt: skip
    for name in foreign:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(b"mine")
        age(store / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audit(store) == undisturbed[1]
    code, said = run(capsys, store, "verify")
    assert (code, said.count("foreign: ")) == (0, len(foreign))
    assert f"{len(foreign)} foreign" in said
    for lock in store.glob("locks/*.lock"):
        age(lock)
    everything = ("--older-than=0", "--stale", "--damaged", "--orphans", "--temporaries")
    assert run(capsys, store, "prune", *everything)[0] == 0
    assert all((store / name).read_bytes() == b"mine" for name in foreign)
    assert set(snapshot(store)) == set(foreign)


KILLED = """
import resource, signal, sys
from pathlib import Path
import torch
from harness.store.artefacts import Store
store = Store(Path(sys.argv[1]), "victim")
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # dies while it writes, with half of the file on disk
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
store.obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(10_000)}), "trial")
"""


def test_what_a_killed_write_leaves_is_no_artefact_and_is_swept(tmp_path, capsys):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGXFSZ
    (left,) = tmp_path.rglob("*.tmp")
    assert left.stat().st_size == 4096
    artefact = Store(tmp_path, "next").obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(10_000)}), "trial")
    assert artefact.made["run"] == "next"
    assert "0 damaged, 0 orphaned; 1 left over, 0 foreign" in run(capsys, tmp_path, "verify")[1]
    assert "removed 0 files" in run(capsys, tmp_path, "prune", "--temporaries")[1]  # it may be at work
    age(left)
    assert "removed 1 files" in run(capsys, tmp_path, "prune", "--temporaries")[1]
    assert not left.exists()
    assert run(capsys, tmp_path, "verify")[0] == 0


# ---- disks


@pytest.fixture
def mount(tmp_path):
    """Mount a disk of its own, in memory, of so many bytes; skipped where that is not allowed."""
    at = tmp_path / "disk"
    at.mkdir()

    def mounted(size, option="rw"):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},{option}", "tmpfs", str(at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a disk here: {done.stderr.strip()}")
        return at

    yield mounted
    subprocess.run(["umount", str(at)], capture_output=True, check=False)


@pytest.mark.parametrize("size", [65536, 200_704])
def test_a_full_disk_costs_no_verdict(mount, undisturbed, size):
    disk = mount(size)
    with pytest.warns(UserWarning, match="No space left on device; it is kept in memory|No space left on device'"):
        assert audit(disk / "store") == undisturbed[1]
    assert not list(disk.rglob("*.tmp"))
    with warnings.catch_warnings():  # what did fit is sound
        warnings.simplefilter("error", DamagedArtefact)
        warnings.simplefilter("ignore", UserWarning)
        assert audit(disk / "store") == undisturbed[1]


def test_a_read_only_disk_is_one_sentence(mount, capsys):
    disk = mount(65536, "ro")
    with pytest.raises(UnlearningError, match=r"disk cannot be written \(Read-only file system\); name another with"):
        audit(disk)


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
def test_a_disk_that_becomes_read_only_costs_no_verdict(mount, undisturbed, store):
    disk = mount(8_000_000)
    shutil.copytree(store, disk / "store")
    truncate(blobs(disk / "store")[:4])  # what is damaged can now neither be removed nor written again
    truncate(of_kind(disk / "store", "model")[:4])
    opened = Lab.open(disk / "store", device="cpu", run="run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    before = snapshot(disk)
    (cell,) = cells([resolve("unlearner", GD)], [resolve("task", AUDIT["task"])], [AUDIT["poison"]])
    study = Study([cell], opened, Plan(3, 0.05), 0.2)
    with pytest.warns(UserWarning, match="Read-only file system"):
        found = [study.verdict(cell, claim) for claim in ("poison", "accuracy", "cost")]
    assert [(v.outcome, v.estimate, v.values) for v in found] == [(v[1], v[3], v[5]) for v in undisturbed[1]]
    assert snapshot(disk) == before


# ---- two versions of the code


def test_two_versions_of_the_code_share_a_store(folder, capsys):
    """Neither finds the other's unlearned models, both find the trained ones, and a version can be cleared away."""
    other = folder.path / "checkout"
    for name in ("harness", "unlearners", "poisons", "test_suites"):
        shutil.copytree(ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "_pytest_unlearning.py", other)
    with (other / "harness" / "training" / "unlearning.py").open("a") as file:
        file.write("# another version\n")
    arguments = (*TINY, f"--unlearner={GD}", "--audit-seeds=3", "-k", "poison_is")
    environment = folder.environment()
    theirs = {**environment, "PYTHONPATH": os.pathsep.join([str(other), environment["PYTHONPATH"]])}
    runs = []
    for name, suites, env in (("a", SUITES, environment), ("b", str(other / "test_suites"), theirs)):
        command = folder.command(
            suites, *arguments, f"--audit-json={folder.path / name}.json", "-p", "no:cacheprovider"
        )
        runs.append(subprocess.Popen(command, cwd=folder.path, env=env, stdout=subprocess.DEVNULL))
    assert [each.wait(300) for each in runs] == [1, 1]
    documents = [json.loads((folder.path / f"{name}.json").read_text()) for name in "ab"]
    shown = [[(a["verdict"], a["estimate"], a["values"]) for a in document["audits"]] for document in documents]
    assert shown[0] == shown[1]
    built = [arm for document in documents for trial in document["trials"] for arm in trial["cost"]["built"]]
    assert {arm: built.count(arm) for arm in "PRU"} == {"P": 3, "R": 3, "U": 2 * 5 * 3}

    models = len(of_kind(folder.store, "model"))
    assert run(capsys, folder.store, "prune", "--stale")[0] == 0
    assert len(of_kind(folder.store, "model")) == models - 5 * 3  # the other version's
    again = folder.pytest(*arguments)
    assert again.built == []
    assert again.judged[0]["estimate"] == shown[0][0][1]


# ---- the commands


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


# ---- URLs


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(cache, request):
    """A store in this process's memory, of this test."""
    return f"memory://{request.node.name.partition('[')[0]}/deep"


def test_a_file_url_is_a_path(tmp_path):
    assert files_at(f"file://{tmp_path}/a%20b").root == tmp_path / "a b"
    assert isinstance(files_at(tmp_path), Local)
    with pytest.raises(UnlearningError, match="names a machine; write a path as file:///"):
        files_at("file://server/share")


def test_a_store_behind_a_url_gives_the_same_verdicts_and_locks_here(url, undisturbed, cache):
    assert audit(url) == undisturbed[1]
    assert audit(url) == undisturbed[1]
    files = files_at(url)
    assert {entry.name.partition("/")[0] for entry in files.entries()} == {"records", "blobs"}
    local = {name for name in snapshot(undisturbed[0]) if not name.startswith("locks/")}
    assert {entry.name for entry in files.entries()} == local  # same keys, same layout, same bytes of models
    assert files.scratch.is_relative_to(cache)
    assert {path.parent.name for path in files.scratch.rglob("*.lock")} == {"locks"}


def test_blobs_are_fetched_once_and_a_damaged_copy_is_fetched_again(url):
    artefact = Store(url, "one").obtain("model", {"seed": 0}, lambda: ({}, {"w": torch.ones(3)}), "trial")
    files = files_at(url)
    (copy,) = files.scratch.glob("blobs/*/*.safetensors")
    copy.unlink()
    assert torch.equal(Store(url, "two").tensors(artefact)["w"], torch.ones(3))
    assert copy.exists()
    (path,) = [files._path(e.name) for e in files.entries() if e.name.startswith("blobs/")]
    content = files._filesystem.cat_file(path)
    files._filesystem.pipe_file(path, b"gone bad")
    assert torch.equal(Store(url, "three").tensors(artefact)["w"], torch.ones(3))  # from the copy
    files._filesystem.pipe_file(path, content)
    copy.write_bytes(b"gone bad")
    assert torch.equal(Store(url, "four").tensors(artefact)["w"], torch.ones(3))  # from there
    assert copy.read_bytes() == content


def test_damage_behind_a_url_is_noticed_and_mended(url, undisturbed):
    audit(url)
    files = files_at(url)
    for entry in list(files.entries()):
        files._filesystem.pipe_file(files._path(entry.name), b"something else")
    shutil.rmtree(files.scratch)
    with pytest.warns(DamagedArtefact):
        assert audit(url) == undisturbed[1]
    assert not Inventory.of(files).damaged


def test_the_commands_work_behind_a_url(url, capsys):
    audit(url)
    assert run(capsys, url, "verify")[0] == 0
    assert "kept in" in run(capsys, url, "size")[1]
    assert "model" in run(capsys, url, "list")[1]
    run(capsys, url, "prune", "--older-than=0")
    assert list(files_at(url).entries()) == []


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nowhere://bucket", "the store nowhere://bucket cannot be opened: Protocol not known: nowhere"),
        ("http://127.0.0.1:9/store", "the store http://127.0.0.1:9/store cannot be"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(folder, where, said):
    done = subprocess.run(
        folder.command(SUITES, *TINY, f"--audit-store={where}"), cwd=folder.path, env=folder.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stdout + done.stderr
    assert len([line for line in (done.stdout + done.stderr).splitlines() if said in line]) == 1
    assert "Traceback" not in done.stderr


def test_a_missing_fsspec_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)  # what an import finds that is not installed
    with pytest.raises(UnlearningError, match=r"needs fsspec: pip install 'pytest-unlearning\[remote\]'"):
        files_at("s3://bucket")


def test_the_header_says_where_the_cache_of_a_url_is(folder):
    run = folder.pytest(*TINY, "--audit-store=memory://header", "--audit-dry-run")
    files = files_at("memory://header")
    assert isinstance(files, Remote)
    assert run.code == 0, run.text
    assert f"store: memory://header (cache {files.scratch})".replace(str(Path.home()), "~") in run.text
