"""A bundle: written, verified, and every way to tamper with it."""

import copy
import hashlib
import json
import re
import shutil
import subprocess
import zipfile

import pytest

from conftest import Folder
from harness.api import UnlearningError
from harness.bundles.bundle import opened
from harness.bundles.made import without_places
from harness.bundles.repeating import differences, refuted, slower
from harness.bundles.signing import Untrue, sign, signer
from harness.report.form import misfit
from harness.store.artefacts import Store, blob_name, canonical, key_of
from harness.store.packing import pack, unpack

#: It changes the model by next to nothing.
WEAK = "gd:lr=0.0001"
QUICK = ("--", "--audit-plan=quick", "-p", "no:randomly")


def keyed(folder, name):
    """Make a key, and return it."""
    key = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


@pytest.fixture(scope="module")
def made(tmp_path_factory, forks, tiny_store):
    """A folder with a key, the file of signers, and a signed bundle about a method that does nothing."""
    folder = Folder(tmp_path_factory.mktemp("bundle"), forks)
    shutil.copytree(tiny_store, folder.store)
    key = keyed(folder.path, "key")
    folder.write("signers", f"ada@example.org {key.with_suffix('.pub').read_text()}")
    code, text = folder.harness(
        "submit", *ABOUT, "--store", folder.store,
        "--out", "bundle.zip", "--sign", "key", *QUICK,
    )  # fmt: skip
    assert code == 0, text
    assert "wrote bundle.zip: 3 audits, " in text.splitlines()[-1]
    return folder


ABOUT = ("--unlearner", WEAK, "--task=tiny:Tiny", "--poison=backdoor:size=1")


def verify(folder, bundle, *words):
    return folder.harness("verify", bundle, *ABOUT, "--signers", "signers", *words, *QUICK)


def changed(made, name, result=lambda document: None, store=lambda files: None, remade=True):
    """Write the bundle anew with a result or a store changed; with ``remade``, as its author could: signed again."""
    folder = made.path
    parts = parts_of(folder / "bundle.zip")
    document = json.loads(parts["result.json"])
    result(document)
    parts["result.json"] = json.dumps(document).encode()
    packed = folder / "store.zip"
    packed.write_bytes(parts["store.zip"])
    unpacked = Store(folder / f"{name}-store", "forged").files
    unpack(packed, unpacked)
    store(unpacked)
    pack(unpacked, packed)
    parts["store.zip"] = packed.read_bytes()
    if remade:
        sealed(parts, folder / "key")
    written(folder / name, parts)
    return name


def written(file, parts):
    """Write a zip of these parts."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def parts_of(file):
    """Return the parts of a zip."""
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(parts, key):
    """Write the manifest of a bundle's parts anew, and sign it."""
    manifest = json.loads(parts["manifest.json"])
    names = [name for name in ("result.json", "store.zip") if name in parts]
    manifest["sha256"] = {name: hashlib.sha256(parts[name]).hexdigest() for name in names}
    parts["manifest.json"] = json.dumps(manifest).encode()
    parts["manifest.json.sig"] = sign(parts["manifest.json"], key)


def records(files, kind):
    """Return the records of a kind, by the names of their files."""
    found = {each.name: json.loads(files.read(each.name)) for each in files.entries() if each.name.endswith(".json")}
    return {name: envelope["record"] for name, envelope in found.items() if envelope["record"]["kind"] == kind}


def rewrite(files, name, record):
    """Write a record with its own checksum, as a careful forger would."""
    text = canonical(record)
    digest = hashlib.sha256(text.encode()).hexdigest()
    files.write(name, f'{{"sha256":"{digest}","record":{text}}}'.encode())


def poison_audit(document):
    return next(audit for audit in document["audits"] if audit["claim"] == "poison")


def better(document):
    """Let the method have removed everything."""
    audit = poison_audit(document)
    audit |= {"estimate": 0.01, "interval": [-0.1, 0.1], "verdict": "PASS", "reason": "equivalent"}


def test_a_true_bundle_holds(made):
    code, text = verify(made, "bundle.zip", "--anew=1")
    assert code == 0, text
    assert "1 of 3: it is what its manifest says; signed by ada@example.org" in text
    assert "2 of 3: its models give its result, 3 audits" in text
    assert "made anew, everything read anew: " in text
    assert text.splitlines()[-1] == "verify: bundle.zip holds"
    assert "FAIL" in text  # that a method fails does not make its bundle untrue


def test_bundles_are_results_for_other_commands(made):
    code, text = made.harness("results", "bundle.zip", "--to", "markdown")
    assert code == 0, text
    assert f"| {WEAK} on tiny:Tiny |" in text or f"| {WEAK} |" in text
    code, text = made.harness("compare", "bundle.zip", "bundle.zip")
    assert (code, text.splitlines()[-1].strip()[:11]) == (0, "3 of 3 audi")


def test_an_edited_kappa_is_seen_by_the_digest(made):
    code, text = verify(made, changed(made, "edited.zip", better, remade=False))
    assert code == 1
    assert text.splitlines()[-1] == (
        "verify: edited.zip is not true: the bundle was changed: its result.json is not the one of its manifest"
    )


def test_a_kappa_that_its_author_edited_is_seen_by_its_own_models(made):
    code, text = verify(made, changed(made, "signed.zip", better))
    assert code == 1
    assert f"poison of {WEAK} on tiny:Tiny, backdoor:size=1: verdict PASS → FAIL" in text
    assert text.splitlines()[-1].endswith("is not true: its models do not give its result")


def test_seeds_that_were_rolled_again_are_seen(made):
    def rolled(document):
        audit = poison_audit(document)
        audit["seeds"] = [seed + 100 for seed in audit["seeds"]]

    code, text = verify(made, changed(made, "rolled.zip", rolled))
    assert code == 1
    assert "seeds [100, 101, 102] → [0, 1, 2]" in text


def test_models_that_were_left_out_are_seen(made):
    def without(files):
        name = next(name for name, record in records(files, "model").items() if "method" not in record["of"])
        files.remove(name)

    code, text = verify(made, changed(made, "without.zip", store=without))
    assert code == 1
    assert "  P had to be trained\n" in text
    assert text.splitlines()[-1].endswith("is not true: it does not hold all that its result rests on")


def test_a_blob_with_other_weights_is_seen(made):
    def swapped(files):
        blobs = [each.name for each in files.entries() if each.name.startswith("blobs/")]
        files.write(blobs[0], files.read(blobs[1]))

    with pytest.raises(UnlearningError, match="damaged"):  # whoever packs it sees it first
        changed(made, "swapped.zip", store=swapped)
    parts = parts_of(made.path / "bundle.zip")
    packed = made.path / "store.zip"
    packed.write_bytes(parts["store.zip"])
    inner = parts_of(packed)
    blobs = [name for name in inner if name.startswith("blobs/")]
    written(packed, {**inner, blobs[0]: inner[blobs[1]]})
    parts["store.zip"] = packed.read_bytes()
    sealed(parts, made.path / "key")
    written(made.path / "swapped.zip", parts)
    code, text = verify(made, "swapped.zip")
    assert code == 1
    assert f"the packed store was changed: '{blobs[0]}' is damaged (wrong checksum)" in text


def test_retrained_models_passed_off_as_unlearned_are_seen_when_they_are_made_anew(made):
    """Every unlearned model replaced by a retrained one, every checksum right, and judged again."""

    from safetensors.torch import load, save

    def retrained(files):
        models = records(files, "model")
        by_seed = {r["of"]["seed"]: r for r in models.values() if "method" not in r["of"] and "retained" in r["of"]}
        for name, record in models.items():
            if "method" in record["of"] and record["of"]["method"]["name"] == "gd":
                other = by_seed[(record["of"]["seed"] + 1) % len(by_seed)]  # one that is equal to its own is refused
                weights = load(files.read(blob_name(other["blob"])))
                content = save({each: 0.9 * tensor for each, tensor in weights.items()})
                blob = hashlib.sha256(content).hexdigest()
                files.write(blob_name(blob), content)
                rewrite(files, name, {**record, "blob": blob})

    judged = judged_anew(made, changed(made, "forged.zip", store=retrained))
    audit = judged.audits[WEAK, "backdoor:size=1", "poison"]
    assert audit["verdict"] == "PASS", judged.text  # the forgery is a good one
    code, text = verify(made, "forged.zip", "--anew=3")
    assert code == 1, text
    assert "2 of 3: its models give its result" in text
    assert "unlearned model, seed " in text
    assert "the method does not do what it did" in text.splitlines()[-1]


def test_only_those_who_may_sign_are_believed(made):
    mallory = keyed(made.path, "mallory")
    made.write("others", f"mallory@example.org {mallory.with_suffix('.pub').read_text()}")
    code, text = made.harness("verify", "bundle.zip", *ABOUT, "--signers", "others")
    assert (code, text.splitlines()[-1]) == (
        1,
        "verify: bundle.zip is not true: nobody in others has signed this bundle",
    )


def test_a_signature_is_that_of_its_bytes_and_of_its_purpose(tmp_path):
    key = keyed(tmp_path, "key")
    allowed = tmp_path / "allowed"
    allowed.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    signature = sign(b"one", key)
    assert signer(b"one", signature, allowed) == "ada@example.org"
    with pytest.raises(UnlearningError, match="has not signed what is in this bundle"):
        signer(b"two", signature, allowed)
    file = tmp_path / "git"
    file.write_bytes(b"one")
    subprocess.run(["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", "git", str(file)], check=True)
    with pytest.raises(UnlearningError, match="let this key sign for pytest-unlearning"):
        signer(b"one", (tmp_path / "git.sig").read_bytes(), allowed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("verify", "absent.zip", *ABOUT), "error: absent.zip: No such file or directory"),
        (("verify", "tiny.py", *ABOUT), "tiny.py is no bundle; name a file that pytest-unlearning submit wrote"),
        (("verify", "bundle.zip", *ABOUT, "--signers=none"), "the file of signers none is missing"),
        (
            ("verify", "bundle.zip", *ABOUT, "--signers=tiny.py"),
            "no line of tiny.py has a public key; write a",
        ),
        (("verify", "bundle.zip", "--unlearner=gd"), f"it is about {WEAK} (source "),
        (("verify", "bundle.zip", "--unlearner=gd"), "), not gd"),
        (
            ("store", "unpack", "bundle.zip", "--store=s"),
            "bundle.zip is no packed store; name what pytest-unlearning store",
        ),
        (("store", "unpack", "absent.zip", "--store=s"), "error: absent.zip: No such file or directory"),
        (("submit", "--unlearner=gd", "--store=s", "--out=b"), "--out: a bundle is a zip; name it b.zip"),
        (("submit", "--unlearner=gd", "--store=s", "--out=no/b.zip"), "--out: the directory no is missing"),
        (("submit", *ABOUT, "--store=s", "--out=b.zip", "--sign=tiny.py"), "the key tiny.py cannot sign: "),
    ],
)
def test_what_cannot_be_is_a_sentence(made, words, sentence):
    code, text = made.harness(*words)
    assert code == 2
    assert len(text.splitlines()) == 1
    assert sentence in text


def test_a_bundle_is_held_against_what_its_reader_names_and_not_against_itself(made):
    code, text = made.harness("verify", "bundle.zip", *ABOUT, *QUICK[:1], *QUICK[2:])
    assert code == 2
    assert len(text.splitlines()) == 1  # it is refused before anything is run
    assert "it was judged with plan quick (not reliable)" in text
    made.write("pytest.ini", "[pytest]\naddopts = --audit-tolerance=0.3\n")
    code, text = made.harness("verify", "bundle.zip", *ABOUT, *QUICK)
    (made.path / "pytest.ini").unlink()
    assert code == 2
    assert "it was judged with tolerance 0.2 (not 0.3)" in text.splitlines()[-1]
    code, text = made.harness("verify", "bundle.zip", *ABOUT[:2], "--task=tiny:Tiny", "--poison=confusion", *QUICK)
    assert code == 1
    assert f"poison of {WEAK} on tiny:Tiny, backdoor:size=1: not found again" in text


def test_what_is_counted_and_the_contract_are_compared_too(made):
    def cheaper(document):
        audit = next(audit for audit in document["audits"] if audit["claim"] == "cost")
        audit["details"]["examples_of_retraining"] = 0.01
        document["contract"][0]["sentence"] = "It is fine."

    code, text = verify(made, changed(made, "cheaper.zip", cheaper))
    assert code == 1
    assert f"cost of {WEAK} on tiny:Tiny, backdoor:size=1: details" in text
    assert f" of {WEAK}: sentence  → It is fine." in text or "It is fine. → " in text


def nudged(share):
    """Return what adds noise to the weights of every poisoned model, and gives the record the new blob."""
    import torch
    from safetensors.torch import load, save

    def noisy(tensor):
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
        return tensor + share * float(tensor.abs().mean()) * noise if tensor.is_floating_point() else tensor

    def change(files):
        for name, record in records(files, "model").items():
            if "method" not in record["of"] and "poisoned" in record["of"]:
                weights = load(files.read(blob_name(record["blob"])))
                content = save({each: noisy(tensor) for each, tensor in weights.items()})
                blob = hashlib.sha256(content).hexdigest()
                files.write(blob_name(blob), content)
                rewrite(files, name, {**record, "blob": blob})

    return change


def judged_anew(made, name):
    """Judge what the store of a forged bundle holds, and write the bundle with this result and all that it took."""
    packed = made.path / "store.zip"
    packed.write_bytes(parts_of(made.path / name)["store.zip"])
    store = Store(made.path / f"{name}-judged", "forged").files
    unpack(packed, store)
    run = made.pytest(*ABOUT, "--audit-plan=quick", f"--audit-store={store.root}", contract=True)
    pack(store, packed)
    parts = parts_of(made.path / "bundle.zip")
    parts |= {"result.json": json.dumps(run.json).encode(), "store.zip": packed.read_bytes()}
    sealed(parts, made.path / "key")
    written(made.path / name, parts)
    return run


def test_a_machine_that_computes_otherwise_repeats_everything(made):
    """Poisoned models that are a little different stand for those of another kind of processor."""
    judged_anew(made, changed(made, "other.zip", store=nudged(0.3)))
    code, text = verify(made, "other.zip", "--anew=3")
    assert code == 2, text
    assert "this machine does not compute as the one that made it, or they were changed" in text.splitlines()[-1]
    code, text = verify(made, "other.zip", "--anew=all")
    assert code == 0, text
    assert "3 of 3: everything made anew, 3 audits: no verdict is worse, and estimates agree" in text


def test_a_reading_cannot_hide_among_the_models():
    """Whatever kind a record says that it is of is part of its key."""
    assert key_of("model", {"seed": 0, "kind": "value"}) != key_of("value", {"seed": 0})


def test_a_damaged_bundle_is_a_sentence(made):
    content = (made.path / "bundle.zip").read_bytes()
    told = 0
    for place in range(20, len(content), len(content) // 40):
        (made.path / "damaged.zip").write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            opened(made.path / "damaged.zip", made.path, None)
        except UnlearningError:
            told += 1
    assert told > 20  # the rest of the bytes are dates and the like


def test_a_method_that_breaks_the_contract_is_not_submitted(made):
    made.write("lazy.py", "def forget(model, request):\n    return model\n")
    words = ("submit", "--unlearner=lazy:forget", "--task=tiny:Tiny", "--poison=backdoor:size=1")
    code, text = made.harness(*words, "--store", made.store, "--out", "lazy.zip", *QUICK)
    assert code == 2
    assert text.splitlines()[-1].endswith(
        "the method breaks the contract (changes-weights); mend it before you submit it"
    )


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (("run",), "$: 'run' is a required property"),
        (("audits",), "$: 'audits' is a required property"),
        (("contract",), "$: 'contract' is a required property"),
        (("trials",), "$: 'trials' is a required property"),
        (("run", "settings"), "$.run: 'settings' is a required property"),
        (("audits", 0, "claim"), "$.audits[0]: 'claim' is a required property"),
        (("trials", 0, "cost", "fractions"), "$.trials[0].cost: 'fractions' is a required property"),
    ],
)
def test_a_result_without_one_of_its_parts_is_no_result(made, place, sentence):
    parts = parts_of(made.path / "bundle.zip")
    document = json.loads(parts["result.json"])
    assert misfit(document) == ""
    *inner, last = place
    holder = document
    for name in inner:
        holder = holder[name]
    del holder[last]
    parts["result.json"] = json.dumps(document).encode()
    sealed(parts, made.path / "key")
    written(made.path / "less.zip", parts)
    with pytest.raises(Untrue, match=re.escape(f"its result is none that --audit-json writes: {sentence}")):
        opened(made.path / "less.zip", made.path, None)


def test_versions_that_cannot_repeat_it_are_named(made):
    def older(document):
        document["run"]["versions"]["torch"] = "1.0"

    code, text = verify(made, changed(made, "older.zip", older))
    assert code == 2
    assert "it was made with torch 1.0, and here is pytest-unlearning " in text


@pytest.fixture(scope="module")
def small(made):
    """A bundle without models, of the store of the other one."""
    code, text = made.harness(
        "submit", *ABOUT, "--store", made.store, "--without-models", "--out", "small.zip", "--sign", "key", *QUICK
    )
    assert code == 0, text
    assert text.splitlines()[-1].startswith("wrote small.zip: 3 audits, without models, ")
    return made


def sign_anew(folder, name, result=lambda document: None, manifest=lambda content: None):
    """Write the bundle without models anew, changed by its author."""
    parts = parts_of(folder.path / "small.zip")
    document, listed = json.loads(parts["result.json"]), json.loads(parts["manifest.json"])
    result(document)
    manifest(listed)
    parts |= {"result.json": json.dumps(document).encode(), "manifest.json": json.dumps(listed).encode()}
    sealed(parts, folder.path / "key")
    written(folder.path / name, parts)
    return name


def test_a_bundle_without_models_is_small_and_names_no_folder(small):
    parts = parts_of(small.path / "small.zip")
    assert sorted(parts) == ["manifest.json", "manifest.json.sig", "result.json"]
    assert (small.path / "small.zip").stat().st_size < 20_000
    assert str(small.path) not in parts["result.json"].decode()
    assert json.loads(parts["manifest.json"])["made"]["device"] == "cpu"


def test_a_bundle_without_models_holds_when_everything_made_anew_is_equal(small):
    code, text = verify(small, "small.zip")
    assert code == 0, text
    assert "2 of 3: it carries no models, so everything must be made anew, and is now" in text
    assert "3 of 3: everything made anew, 3 audits: all numbers are equal" in text


def test_a_bundle_without_models_whose_author_edited_a_kappa_is_untrue(small):
    def nearly(document):
        poison_audit(document)["estimate"] -= 0.01  # within the interval, and with the same verdict

    code, text = verify(small, sign_anew(small, "nearly.zip", nearly))
    assert code == 1, text
    assert f"poison of {WEAK} on tiny:Tiny, backdoor:size=1: estimate 0.9" in text
    assert text.splitlines()[-1] == "verify: nearly.zip is not true: made anew, its result is another"


def test_with_another_source_a_difference_is_no_untruth(small):
    """Seeds rolled again: untrue by the source that made it, and not known by another one."""

    def rolled(document):
        for audit in document["audits"]:
            audit["seeds"] = [seed + 100 for seed in audit["seeds"]]

    code, text = verify(small, sign_anew(small, "rolled.zip", rolled))
    assert code == 1, text
    assert "seeds [100, 101, 102] → [0, 1, 2]" in text

    def older(listed):
        listed["made"]["sources"]["harness.judging"] = "0" * 64

    code, text = verify(small, sign_anew(small, "older.zip", rolled, older))
    assert code == 2, text
    assert "it was made by another source of harness.judging, which may be why" in text.splitlines()[-1]


def test_models_cannot_be_taken_out_of_a_bundle(made):
    parts = parts_of(made.path / "bundle.zip")
    del parts["store.zip"]
    written(made.path / "stripped.zip", parts)
    with pytest.raises(UnlearningError, match="is no bundle"):
        opened(made.path / "stripped.zip", made.path, None)


@pytest.fixture
def result(made):
    return json.loads(parts_of(made.path / "bundle.zip")["result.json"])


def edited(document, claim, **values):
    """A copy of a result with values of an audit changed."""
    found = copy.deepcopy(document)
    next(audit for audit in found["audits"] if audit["claim"] == claim).update(values)
    return found


def test_another_machine_refutes_what_rounding_cannot_explain(result):
    low, high = poison_audit(result)["interval"]
    near, far = poison_audit(result)["estimate"] + 0.01, high + 1
    elsewhere = edited(result, "poison", estimate=near, interval=[low + 0.01, high + 0.01], seeds=list(range(5)))
    assert refuted(result, elsewhere) == []
    assert refuted(elsewhere, result) == []  # it does not matter who took more seeds

    better = edited(result, "poison", verdict="PASS", estimate=0.0, interval=[-0.1, 0.1])
    assert "PASS 0.00 [−0.10, 0.10], n = 3 → FAIL" in refuted(better, elsewhere)[0]
    moved = edited(result, "poison", estimate=far, interval=[far - 0.1, far + 0.1])
    assert "; moved by " in refuted(moved, elsewhere)[0]
    rolled = edited(result, "poison", seeds=[100, 101, 102])
    assert refuted(rolled, elsewhere)[0].endswith("seeds [100, 101, 102] → [0, 1, 2, 3, 4]")
    lax = edited(result, "accuracy", margin=0.5)
    assert "margin 0.5 → 0.02" in refuted(lax, elsewhere)[0]
    fewer = {**result, "audits": result["audits"][1:], "contract": result["contract"][1:]}
    assert [line.rpartition(": ")[2] for line in refuted(fewer, elsewhere)] == ["not in the result"] * 2
    breaks = {**result, "contract": [{**each, "kept": False, "sentence": "No."} for each in result["contract"][:1]]}
    assert refuted(result, breaks)[0].endswith(": No.")


def test_cpu_time_is_not_held_against_a_bundle(result):
    cost = next(audit for audit in result["audits"] if audit["claim"] == "cost")
    slow = {**cost["details"], "cpu_seconds_of_retraining": 0.5}
    late = edited(result, "cost", details=slow, verdict="FAIL", reason="over-budget", finding="Slow.")
    assert differences(result, late)
    assert differences(result, late, timed=False) == refuted(result, late) == []
    assert slower(result, late) == [f"cost of {WEAK} on tiny:Tiny, backdoor:size=1: Slow."]
    assert slower(late, result) == []
    dear = {**cost["details"], "examples_of_retraining": 0.5}
    over = edited(result, "cost", details=dear, verdict="FAIL", reason="over-budget", estimate=0.5)
    assert differences(result, over, timed=False)
    assert refuted(result, over)


def test_paths_of_places_are_left_out(tmp_path):
    mine = tmp_path / "mine"
    said = {"a": [f"--audit-store={mine}", f"{mine}2", f"{mine}/blobs", f"x {tmp_path}/mine.py", 1, None]}
    told = without_places(said, {tmp_path: ".", mine: "store"})
    assert told == {"a": ["--audit-store=store", "mine2", "blobs", "x mine.py", 1, None]}
