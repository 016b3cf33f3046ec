"""The store is not trusted, and an unlearner sees what its request shows: neither may be a way in or out."""

import ast
import gc
import hashlib
import json
import pickle
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from labs import BACKDOOR, GAUSSIAN, REWIND, TINY, lab_in, method, trial

from harness import registry
from harness.api import Planted
from harness.cells import Cell, Trial
from harness.store.artefacts import DamagedArtefact, Store, artefact_of, blob_name, canonical, record_name
from harness.trials.lab import Lab
from harness.trials.planting import PlantedIn, Points

ROOT = Path(__file__).resolve().parent.parent.parent
UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


# ---- pickles


def names_in(path):
    """Yield every imported module, and every attribute as ``module.attribute``, that a file names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield f"{node.value.id if isinstance(node.value, ast.Name) else ''}.{node.attr}"


def test_no_module_can_unpickle_but_two():
    """Ray's messages, and models of a pipeline whose network nobody can build anew: docs/security.md."""
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("harness", "unlearners", "poisons", "test_suites")
        for path in (ROOT / folder).rglob("*.py")
        for name in names_in(path)
        if UNPICKLERS & set(name.split(".")) or name == "torch.load"
    }
    assert found == {"harness/studies/ray.py", "harness/pipelines/keeping.py"}


def test_the_scan_sees_what_it_looks_for(tmp_path):
    for text in (
        "import pickle",
        "from torch import load\nimport torch\ntorch.load('x')",
        "import ray\nray.cloudpickle",
    ):
        (tmp_path / "x.py").write_text(text)
        assert any(UNPICKLERS & set(name.split(".")) or name == "torch.load" for name in names_in(tmp_path / "x.py"))


class Bomb:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


# ---- stores written by somebody else


def result_in(store):
    """Return what a trial shows over a store, as a run that comes later sees it; times differ from run to run."""
    result = lab_in(store, "later").run(trial(REWIND))
    return result.readings, {k: v for k, v in result.cost.items() if k in ("train_examples", "unlearn_examples")}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """What a trial shows over a sound store."""
    return result_in(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def victim(tmp_path):
    """A store with everything of a trial but its readings, so that a later run reads models and what was planted."""
    store = tmp_path / "victim"
    lab_in(store, "earlier").run(trial(REWIND))
    for path in store.glob("records/*/*.json"):
        if json.loads(path.read_bytes())["record"]["kind"] == "value":
            path.unlink()
    return store


def forge(store, change, kind=None):
    """Write records anew as somebody would who knows how checksums are made."""
    for path in store.glob("records/*/*.json"):
        record = json.loads(path.read_bytes())["record"]
        if kind in (None, record["kind"]):
            change(record)
            text = json.dumps(record, sort_keys=True, separators=(",", ":"))
            sha = hashlib.sha256(text.encode()).hexdigest()
            path.write_text(f'{{"sha256": "{sha}", "record": {text}}}')


def plant_blob(store, content):
    """Put a file among the blobs under its right name, and return that."""
    blob = hashlib.sha256(content).hexdigest()
    target = store / blob_name(blob)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(content)
    return blob


def header(text, length=None):
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode()


def tensors(**named):
    from safetensors.torch import save

    return save(named)


EMPTY = '"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
BLOBS = {
    "nothing": b"",
    "no safetensors": b"\x80\x04N.",
    "a header longer than the file": header("{}", 2**62),
    "a header of 100 MB that is not there": header("{" + EMPTY + "}", 10**8),
    "an offset outside": header('{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "a shape that overflows": header('{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
    "an unknown type": header('{"w":{"dtype":"PICKLE","shape":[0],"data_offsets":[0,0]}}'),
    "deeply nested": header('{"__metadata__":' + "[" * 5000 + "]" * 5000 + "}"),
    "other tensors": tensors(w=torch.ones(3)),
    "no tensors": tensors(),
    "names like attributes": tensors(__class__=torch.ones(1), forget=torch.tensor([-1, 7]), labels=torch.ones(2)),
    "tensors of other shapes": tensors(forget=torch.ones(2, 2), labels=torch.ones(0)),
}


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize("content", BLOBS.values(), ids=BLOBS)
def test_hostile_tensors_are_damaged_artefacts(victim, sound, content):
    forge(victim, lambda record: record.update(blob=plant_blob(victim, content)))
    with pytest.warns(DamagedArtefact):
        assert result_in(victim) == sound


CHANGES = {
    "a blob in another folder": {"blob": "../../../etc/passwd"},
    "a blob at an absolute path": {"blob": "/etc/passwd"},
    "a blob with an end of line": {"blob": "0" * 64 + "\n"},
    "a blob that is a number": {"blob": 7},
    "a blob that is a list": {"blob": ["0" * 64]},
    "no blob": {"blob": None},
    "a missing blob": {"blob": "0" * 64},
    "no info": {"info": None},
    "empty info": {"info": {}},
    "info that is a list": {"info": [1, 2]},
    "info of other types": {"info": {"finite": "yes", "examples": "many", "steps": [], "points": {}, "seconds": None}},
    "made by nobody": {"made": None},
    "made at no time": {"made": {"run": 1, "trial": [], "seconds": "x"}},
    "another kind": {"kind": {"__reduce__": "os.system"}},
}


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_hostile_records_are_damaged_artefacts(victim, sound, change):
    forge(victim, lambda record: record.update(change))
    with pytest.warns(DamagedArtefact):
        assert result_in(victim) == sound


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize(
    "text",
    ['{"record":' + "[" * 100_000, '{"record": 1e999}', '{"record": ' + "9" * 5000 + "}", "NaN", "\ud800", '{"a":'],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_hostile_json_is_a_damaged_artefact(victim, sound, text):
    for path in victim.glob("records/*/*.json"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.warns(DamagedArtefact):
        assert result_in(victim) == sound


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize("told", ["examples", "steps", "seconds", "cpu_seconds", "flops", "first_call"])
def test_models_that_cost_nothing_are_damaged_artefacts(victim, sound, told):
    def change(record):
        info = record["info"]
        if "flops" in info and told not in ("examples", "steps"):
            del info[told]  # of what was unlearned
        elif "flops" not in info and told in ("examples", "steps", "seconds"):
            info[told] = 0  # of what was trained

    forge(victim, change, "model")
    with pytest.warns(DamagedArtefact):
        assert result_in(victim) == sound


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize("counts", [{"flops": "many"}, {"flops_per_example": []}, {"cpu_seconds": None}])
def test_hostile_counts_of_operations_are_damaged_artefacts(victim, sound, counts):
    forge(victim, lambda record: record["info"].update(counts), "model")
    with pytest.warns(DamagedArtefact):
        assert result_in(victim) == sound


READINGS = {
    "no number": {"value": "0", "resolution": 0.0, "details": {}, "unusable": ""},
    "details that are none": {"value": 0.0, "resolution": 0.0, "details": [1], "unusable": ""},
    "details of other types": {"value": 0.0, "resolution": 0.0, "details": {"x": {}}, "unusable": ""},
    "no resolution": {"value": 0.0, "resolution": None, "details": {}, "unusable": ""},
    "nothing": {},
}


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize("info", READINGS.values(), ids=READINGS)
def test_hostile_readings_are_damaged_artefacts(tmp_path, sound, info):
    lab_in(tmp_path, "earlier").run(trial(REWIND))
    forge(tmp_path, lambda record: record.update(info=info), "value")
    with pytest.warns(DamagedArtefact):
        assert result_in(tmp_path) == sound


@pytest.mark.filterwarnings("ignore::harness.store.artefacts.DamagedArtefact")
@pytest.mark.parametrize("where", ["records", "blobs"])
def test_a_pickle_in_the_store_is_never_loaded(victim, sound, tmp_path, where):
    marker = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(marker))
    if where == "blobs":  # under a name that its content deserves, named by records whose checksums are right
        forge(victim, lambda record: record.update(blob=plant_blob(victim, bomb)))
    else:
        for path in victim.glob("records/*/*.json"):
            path.write_bytes(bomb)
    with pytest.warns(DamagedArtefact):
        assert result_in(victim) == sound
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists(), "the bomb is one"


def test_a_forged_record_is_read_where_it_is_sound(victim):
    """What the tests above forge is refused for what it says, not for how it was written."""
    forge(victim, lambda record: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in victim.glob("records/*/*.json"):
            assert Store(victim, "later").get(path.stem) is not None


def test_names_in_the_store_stay_below_its_root():
    assert record_name("ab" * 32) == f"records/ab/{'ab' * 32}.json"
    record = {"key": "k", "kind": "model", "info": {}, "blob": "../x", "made": {"run": "", "trial": "", "seconds": 0}}
    envelope = {"sha256": hashlib.sha256(canonical(record).encode()).hexdigest(), "record": record}
    with pytest.raises(ValueError, match="invalid name of a blob"):
        artefact_of("k", json.dumps(envelope).encode())


# ---- what a request leads to


def reachable(*roots):
    """Return every object that leads on from the roots: attributes, items, closures, defaults, attributes of classes.

    Not what any code can reach in Python, asked for or not: modules, globals of functions, frames.
    """
    of_modules = {id(vars(module)) for module in list(sys.modules.values())}
    seen: dict[int, object] = {}
    queue = list(roots)
    while queue:
        thing = queue.pop()
        if id(thing) in seen or id(thing) in of_modules or isinstance(thing, types.ModuleType | types.FrameType):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, types.FunctionType):
            parts = (thing.__closure__, thing.__defaults__, thing.__kwdefaults__, vars(thing))
            queue.extend(part for part in parts if part)
        elif isinstance(thing, type):
            if thing.__module__.partition(".")[0] in ("harness", "poisons", "unlearners", "tiny", "labs"):
                queue.append(dict(vars(thing)))
        else:
            queue.extend(gc.get_referents(thing))
    return list(seen.values())


class Spy:
    """An unlearner that looks round before it hands the model back."""

    history = staticmethod(lambda epochs: [1])

    def __call__(self, model, request):
        self.found = reachable(model, request)
        self.shown = [t.detach().clone() for t in self.found if isinstance(t, torch.Tensor)]
        self.whole = [t.untyped_storage().nbytes() for t in self.found if isinstance(t, torch.Tensor)]
        return model


TARGETED = registry.resolve("poison", "targeted:surrogates=1,restarts=1,steps=2")


@pytest.mark.parametrize("poison", [BACKDOOR, GAUSSIAN, TARGETED], ids=lambda poison: poison.name)
def test_a_request_leads_to_no_secret(tmp_path, poison):
    spy = Spy()
    lab = lab_in(tmp_path)
    own = Trial(Cell(method(spy), TINY, poison), 0)
    lab.run(Trial(Cell(registry.resolve("unlearner", "retrain"), TINY, poison), 0))  # R and R' are there, and in memory
    lab.run(own)
    assert not [
        thing for thing in spy.found if isinstance(thing, Lab | Store | Planted | PlantedIn | Points | Trial | Cell)
    ]

    split, planted = lab.split(TINY), lab.planted(own)
    arms = lab.models(own)
    hidden = {f"R {name}": t for name, t in lab.model(TINY, arms["R"]).state_dict().items()}
    hidden |= {f"secret {name}": t for name, t in planted.secrets.items() if t.dim()}
    hidden |= {f"test {name}": t for name, t in split.test.inputs.items()}
    hidden |= {"training images": split.train.inputs["image"], "clean": split.train.inputs["image"][planted.forget]}
    hidden |= {"indices": planted.forget, "test labels": split.test.labels}
    hidden |= {"noise": planted.inputs["image"] - split.train.inputs["image"][planted.forget]}
    if poison is BACKDOOR:
        hidden["triggered"] = poison.value._triggered(split.test.inputs["image"], planted.secrets)
    assert len(hidden) >= 10
    for name, secret in hidden.items():
        for shown in spy.shown:
            same = shown.shape == secret.shape and torch.equal(shown.double(), secret.double())
            assert not same, f"{name} can be reached"
    # Nor does a tensor show a part of a larger one that holds more.
    assert all(whole == t.numel() * t.element_size() for whole, t in zip(spy.whole, spy.shown, strict=True))


def test_the_walk_finds_what_can_be_found(tmp_path):
    """The walk above would find a lab that is held in a closure, an attribute, a default, or a slot of a class."""
    lab = lab_in(tmp_path)
    secret = torch.randn(5)

    def closure(at=None):
        return lab, at

    def default(at=secret):
        return at

    holder = types.SimpleNamespace(inner=[{"x": default}])
    assert any(thing is lab for thing in reachable(closure))
    assert any(thing is secret for thing in reachable(holder))
    assert any(thing is secret for thing in reachable(types.MethodType(lambda self: None, {"a": secret})))
    assert not any(thing is lab for thing in reachable(lab_in))
