"""The grammar of names, what is said when a name does not resolve, and the hash of the source behind it."""

import functools
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import registry
from harness.api import UnlearningError
from harness.cells import Registered
from harness.registry import available, register, resolve
from harness.sources import ROOT, source_of
from harness.specs import SpecError


@dataclass(frozen=True)
class Knobs:
    """One field of every type that the grammar knows."""

    rate: float = 0.1
    steps: int = 3
    warm: bool = False
    label: str = "plain"
    norm: Literal["l1", "l2", 2] = "l1"
    cap: int | None = None
    limit: float | None = 1.0
    note: str | None = "x"

    control: ClassVar[bool] = True

    def __post_init__(self):
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, not {self.rate}")

    def __call__(self, model, request):
        return model


@dataclass(frozen=True)
class NeedsPath:
    path: str


def method(model, request, *, rate: float = 0.5, mode="fast", cap=None):
    return rate, mode, cap


method.from_scratch = True

NUMBER = 5
HERE = f"{__name__}:"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An importable folder whose modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(
            getattr(sys.modules[name], "__file__", "") or getattr(sys.modules[name], "__path__", "")
        ):
            del sys.modules[name]


@pytest.fixture
def fresh_entries():
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


FORGET = "def forget(model, request, lr: float = 0.1):\n    return model\n"


# ---- the grammar


def test_a_name_resolves_to_its_defaults():
    found = resolve("unlearner", "scrub")
    assert (found.kind, found.id, found.name) == ("unlearner", "scrub", "scrub")
    assert found.fields["alpha"] == found.value.alpha
    assert found.distribution == "pytest-unlearning"
    assert re.fullmatch("[0-9a-f]{64}", found.source)


def test_fields_are_set_and_named_in_the_id():
    found = resolve("unlearner", "scrub:alpha=0.25,max_epochs=2")
    assert (found.value.alpha, found.value.max_epochs) == (0.25, 2)
    assert found.id == "scrub:alpha=0.25,max_epochs=2"
    assert found.name == "scrub"


def test_the_id_leaves_out_defaults_and_follows_the_order_of_declaration():
    spec = f"{HERE}Knobs:limit=1.00,label=a,rate=1e-1,steps=4"
    assert resolve("unlearner", spec).id == f"{HERE}Knobs:steps=4,label=a"


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("label='a, b=c'", "label", "a, b=c"),
        ('label="a,b",steps=4', "label", "a,b"),
        ("label=a b", "label", "a b"),
        ("label=x=y", "label", "x=y"),
        ("label=a:b=c", "label", "a:b=c"),
        ("label=", "label", ""),
        ("label=#1", "label", "#1"),
        (" steps = 4 ", "steps", 4),
        ("rate=1", "rate", 1.0),
        ("rate=1e-3", "rate", 0.001),
        ("steps=-2", "steps", -2),
        ("warm=True", "warm", True),
        ("warm=false", "warm", False),
        ("norm=l2", "norm", "l2"),
        ("norm=2", "norm", 2),
        ("cap=7", "cap", 7),
        ("cap=None", "cap", None),
        ("limit=none", "limit", None),
        ("limit=2", "limit", 2.0),
        ("note=none", "note", None),
        ("note=y", "note", "y"),
    ],
)
def test_values_are_converted_to_the_type_of_the_field(text, field, value):
    found = getattr(resolve("unlearner", f"{HERE}Knobs:{text}").value, field)
    assert (found, type(found)) == (value, type(value))


def test_a_dotted_path_works_with_and_without_fields():
    assert resolve("unlearner", f"{HERE}Knobs").value == Knobs()
    found = resolve("unlearner", f"{HERE}Knobs:steps=4")
    assert found.value == Knobs(steps=4)
    assert (found.id, found.name, found.distribution) == (f"{HERE}Knobs:steps=4", f"{HERE}Knobs", "(local)")


def test_a_dotted_path_may_go_through_packages_and_classes(folder):
    write(folder / "outer_pkg/__init__.py")
    write(
        folder / "outer_pkg/inner.py",
        f"class Box:\n    @staticmethod\n    {FORGET.replace(chr(10) + '    ', chr(10) + '        ')}",
    )
    assert resolve("unlearner", "outer_pkg.inner:Box.forget:lr=0.2").id == "outer_pkg.inner:Box.forget:lr=0.2"


@given(
    st.builds(
        Knobs,
        rate=st.floats(1e-300, 1e300),
        steps=st.integers(),
        warm=st.booleans(),
        norm=st.sampled_from(["l1", "l2", 2]),
        cap=st.none() | st.integers(),
        limit=st.none() | st.floats(allow_nan=False),
    )
)
def test_the_id_is_what_one_types(knobs):
    fields = ",".join(f"{name}={getattr(knobs, name)}" for name in ("rate", "steps", "warm", "norm", "cap", "limit"))
    found = resolve("unlearner", f"{HERE}Knobs:{fields}")
    assert found.value == knobs
    assert resolve("unlearner", found.id) == found


printable = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=["C"]), max_size=8)


@given(printable)
def test_the_id_is_what_one_types_for_any_text(text):
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    found = resolve("unlearner", f'{HERE}Knobs:label="{quoted}"')
    assert found.value.label == text
    assert resolve("unlearner", found.id).value == found.value


def test_two_settings_of_one_method_differ_in_id_and_identity():
    one, other = resolve("unlearner", "gd:lr=0.1"), resolve("unlearner", "gd:lr=0.2")
    assert one != other
    assert one.id != other.id
    assert one.identity != other.identity
    assert one.source == other.source


def test_one_setting_spelled_twice_is_one_method():
    one, other = resolve("unlearner", "gd:lr=0.10,epochs=none"), resolve("unlearner", "gd:lr=1e-1")
    assert one == other
    assert hash(one) == hash(other)


# ---- functions


def test_keyword_parameters_of_a_function_are_its_fields():
    found = resolve("unlearner", f"{HERE}method:rate=2,mode=slow")
    assert found.fields == {"rate": 2.0, "mode": "slow", "cap": None}
    assert found.value(None, None) == (2.0, "slow", None)


@pytest.mark.parametrize("spec", ["method", "method:rate=0.25"])
def test_a_function_keeps_its_declarations(spec):
    assert resolve("unlearner", HERE + spec).value.from_scratch is True


def test_an_unannotated_field_that_defaults_to_none_can_be_set():
    assert resolve("unlearner", f"{HERE}method:cap=7").value(None, None)[2] in (7, "7")


def test_annotations_for_type_checkers_only_do_not_hide_the_others(folder):
    write(
        folder / "typed_method.py",
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from torch import nn\n"
        "def forget(model: nn.Module, request, epochs: int | None = None):\n    return epochs\n",
    )
    assert resolve("unlearner", "typed_method:forget:epochs=3").value(None, None) == 3


# ---- errors, each one sentence that says how to go on


def listed(kind):
    names = [entry.name for entry in metadata.entry_points(group=registry.GROUPS[kind])]
    return f"available: {', '.join(sorted(names))}; or give a dotted path like mymodule:attribute"


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("unlearner", "scrubb", f"unknown unlearner 'scrubb'; did you mean scrub? ({listed('unlearner')})"),
        ("poison", "backdor", f"unknown poison 'backdor'; did you mean backdoor? ({listed('poison')})"),
        ("task", "zzz", f"unknown task 'zzz' ({listed('task')})"),
        ("unlearner", "", "unknown unlearner '' (available: "),
        ("unlearner", "gd:rate=1", "the unlearner 'gd' has no field 'rate' (its fields: lr, epochs)"),
        ("unlearner", "gd:epoch=1", "the unlearner 'gd' has no field 'epoch'; did you mean epochs? (its fields: lr, "),
        ("unlearner", "identity:a=1", "the unlearner 'identity' has no field 'a' (its fields: none)"),
        ("unlearner", "gd:lr=fast", "the field 'lr' of the unlearner 'gd' takes a number or none, not 'fast'"),
        ("unlearner", "gd:epochs=1.5", "the field 'epochs' of the unlearner 'gd' takes an integer or none, not '1.5'"),
        ("unlearner", f"{HERE}Knobs:warm=1", f"'warm' of the unlearner '{HERE}Knobs' takes true or false, not '1'"),
        (
            "unlearner",
            f"{HERE}Knobs:norm=l3",
            f"'norm' of the unlearner '{HERE}Knobs' takes one of l1, l2, 2, not 'l3'",
        ),
        ("unlearner", "gd:lr=1,epochs", "'gd:lr=1,epochs': 'epochs' is not FIELD=VALUE"),
        ("unlearner", "gd:lr='1", '"gd:lr=\'1": no closing quotation'),
        ("unlearner", "gd:lr=-1", "the unlearner 'gd': lr must be positive, not -1.0"),
        ("poison", "gaussian:fraction=2", "the poison 'gaussian': fraction must lie in (0, 1), not 2.0"),
        (
            "unlearner",
            f"{HERE}NeedsPath",
            f"the unlearner '{HERE}NeedsPath' needs the fields path: {HERE}NeedsPath:path=",
        ),
        ("unlearner", f"{HERE}NUMBER", f"the unlearner '{HERE}NUMBER' is int, neither a class nor a function"),
        (
            "unlearner",
            f"{HERE}Knob",
            f"the unlearner '{HERE}Knob': {__name__} has no attribute 'Knob'; did you mean Knobs?",
        ),
        (
            "unlearner",
            "no_such_module:forget",
            "the unlearner 'no_such_module:forget' cannot be imported: "
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
    ],
)
def test_what_cannot_be_resolved_is_said_in_one_sentence(kind, spec, message):
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        resolve(kind, spec)
    assert isinstance(caught.value, UnlearningError)
    assert "\n" not in str(caught.value)


def test_a_field_that_is_not_assigned_is_not_taken_for_a_module():
    with pytest.raises(SpecError, match="FIELD=VALUE"):
        resolve("unlearner", "scrub:alpha")


def test_a_field_given_twice_is_refused():
    with pytest.raises(SpecError, match="twice"):
        resolve("unlearner", "gd:lr=0.1,lr=0.2")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("X = 1\nraise RuntimeError('broken inside')\n", "RuntimeError: broken inside"),
        ("\nimport a_missing_helper_of_mine\n", "ModuleNotFoundError: No module named 'a_missing_helper_of_mine'"),
    ],
)
def test_a_module_that_raises_at_import_is_named_with_file_and_line(folder, text, error):
    file = write(folder / "broken_method.py", text)
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "broken_method:forget")
    message = f"the unlearner 'broken_method:forget' cannot be imported: {error} ({file}:2)"
    assert str(caught.value) == message
    assert caught.value.__cause__ is not None


def test_a_syntax_error_is_named_with_file_and_line(folder):
    write(folder / "garbled_method.py", "x = 1\ndef forget(:\n")
    with pytest.raises(SpecError, match=r"cannot be imported: SyntaxError: .*garbled_method\.py, line 2"):
        resolve("unlearner", "garbled_method:forget")


# ---- entry points


def install(folder: Path, name: str, group: str, entries: dict[str, str], metadata: str = "") -> None:
    info = folder / name / f"{name}-1.0.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
    write(info / "entry_points.txt", f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    sys.path.insert(0, str(folder / name))


@pytest.fixture
def site(tmp_path, monkeypatch, fresh_entries):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_an_installed_plugin_is_found_by_name(site, folder):
    write(folder / "their_method.py", FORGET)
    install(site, "theirs", "unlearning.unlearners", {"theirs-forget": "their_method:forget"})
    found = resolve("unlearner", "theirs-forget:lr=0.2")
    assert (found.id, found.distribution, found.version) == ("theirs-forget:lr=0.2", "theirs", "1.0")


def test_two_distributions_that_claim_one_name_are_both_named(site):
    install(site, "first-plugin", "unlearning.unlearners", {"clash": "one:forget"})
    install(site, "second-plugin", "unlearning.unlearners", {"clash": "two:forget"})
    with pytest.raises(SpecError, match="register the same unlearner 'clash'; uninstall all but one") as caught:
        resolve("unlearner", "clash")
    assert "first-plugin (one:forget)" in str(caught.value)
    assert "second-plugin (two:forget)" in str(caught.value)
    assert resolve("unlearner", "gd").id == "gd"


def test_a_name_of_ours_that_a_distribution_takes_is_refused(site):
    install(site, "squatter", "unlearning.unlearners", {"scrub": "theirs:Scrub"})
    with pytest.raises(SpecError, match=r"squatter \(theirs:Scrub\)"):
        resolve("unlearner", "scrub")


def test_one_entry_point_found_twice_is_one(site):
    install(site, "first-plugin", "unlearning.unlearners", {"same": "one:forget"})
    install(site, "second-plugin", "unlearning.unlearners", {"same": "one:forget"})
    assert list(available("unlearner")).count("same") == 1


def test_a_plugin_that_cannot_be_imported_fails_only_if_it_is_asked_for(site):
    install(site, "rotten", "unlearning.unlearners", {"rotten": "no_such_module_at_all:forget"})
    assert "rotten" in available("unlearner")
    assert resolve("unlearner", "gd").id == "gd"
    with pytest.raises(SpecError, match="the unlearner 'rotten' of rotten cannot be imported"):
        resolve("unlearner", "rotten")


EXTRAS = (
    "Provides-Extra: vision\nProvides-Extra: sound\nRequires-Dist: numpy\nRequires-Dist: an-absent-base>=1\n"
    "Requires-Dist: An.Absent_Eye>=2; extra == 'vision'\nRequires-Dist: its-name-differs; extra == 'sound'\n"
)


@pytest.mark.parametrize(
    ("module", "metadata", "said"),
    [
        ("an_absent_eye.models", EXTRAS, "; the extra 'vision' brings it: pip install 'lacking[vision]'"),
        ("an_absent_ear", EXTRAS, "; one of its extras may bring it: vision, sound"),
        ("an_absent_base", EXTRAS, " although lacking requires it: pip install lacking"),
        ("an_absent_ear", "", ""),
    ],
    ids=["extra", "another name", "required", "undeclared"],
)
def test_a_plugin_that_lacks_a_module_says_what_brings_it(site, folder, module, metadata, said):
    write(folder / "lacking_method.py", f"import {module}\n{FORGET}")
    install(site, "lacking", "unlearning.unlearners", {"lacking": "lacking_method:forget"}, metadata)
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", "lacking")
    missing = module.partition(".")[0]
    assert str(caught.value) == (
        f"the unlearner 'lacking' of lacking needs the module {missing!r}, which is not installed{said}"
    )


def test_a_plugin_that_raises_when_imported_stops_the_run_with_its_own_traceback(site, folder, tmp_path):
    write(folder / "rotten_helper.py", "def prepare():\n    raise RuntimeError('no such device')\n")
    write(folder / "rotten_method.py", "import rotten_helper\n\nrotten_helper.prepare()\n")
    install(site, "rotten", "unlearning.unlearners", {"rotten": "rotten_method:forget"})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(site / "rotten"), str(ROOT)])}

    def listing(name):
        command = [sys.executable, "-m", "pytest", "--pyargs", "test_suites", "--co", "-q", f"--unlearner={name}"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    done = listing("rotten")
    assert done.returncode == 4
    said = done.stderr.strip().splitlines()
    assert said[0].startswith("ERROR: the unlearner 'rotten' of rotten cannot be imported: RuntimeError: no such")
    assert [line.partition(", in ")[2] for line in said if line.startswith("  File")] == ["<module>", "prepare"]
    assert "importlib" not in done.stderr
    assert listing("gd").returncode == 0, "nobody asked for it"


def test_names_are_listed_in_order():
    assert list(available("unlearner")) == sorted(available("unlearner"))


# ---- objects from Python


def test_an_object_from_python_is_named_by_where_it_is_defined():
    found = register("unlearner", method)
    assert (found.name, found.id, found.value) == (f"{HERE}method", f"{HERE}method", method)
    assert found.source == source_of(method)


def test_a_dataclass_from_python_carries_its_fields():
    found = register("unlearner", Knobs(steps=9))
    assert found.name == f"{HERE}Knobs"
    assert found.fields["steps"] == 9
    assert found.identity != register("unlearner", Knobs(steps=8)).identity


def test_a_partial_from_python_carries_its_keywords():
    found = register("unlearner", functools.partial(method, rate=3.0))
    assert found.fields == {"rate": 3.0}
    assert found.id == f"{HERE}method:rate=3"


def make_method(rate):
    def forget(model, request):
        return rate

    return forget


class Plain:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, model, request):
        return self.rate

    def forget(self, model, request):
        return self.rate


@pytest.mark.parametrize(
    "make", [make_method, Plain, lambda rate: Plain(rate).forget], ids=["closure", "instance", "bound method"]
)
def test_objects_that_behave_differently_have_different_identities(make):
    assert register("unlearner", make(0.1)).identity != register("unlearner", make(0.2)).identity


def test_two_lambdas_of_one_file_have_different_identities():
    identities = [
        register("unlearner", f).identity for f in (lambda model, request: model, lambda model, request: None)
    ]
    assert identities[0] != identities[1]


def at_a_prompt(text):
    """Define ``forget`` as at a prompt or in a notebook: in a module without a file."""
    import types

    module = types.ModuleType("at_a_prompt")
    exec(text, module.__dict__)
    return module


@pytest.mark.parametrize(
    "text", ["def forget(m, r):\n return {}", "class forget:\n def __call__(self, m, r): return {}"]
)
def test_what_was_typed_anew_at_a_prompt_has_another_source(monkeypatch, text):
    sources = []
    for version in (1, 2):
        module = at_a_prompt(text.format(version))
        monkeypatch.setitem(sys.modules, "at_a_prompt", module)
        sources.append(source_of(module.forget))
    assert sources[0] != sources[1]


# ---- the hash of the source


def sources_around_an_edit(spec: str, file: Path) -> tuple[str, str]:
    before = resolve("unlearner", spec).source
    file.write_text(file.read_text() + "\n# edited\n")
    return before, resolve("unlearner", spec).source


@pytest.mark.parametrize(
    "edited", ["loose_method.py", "loose_helper.py", "loose_pkg/__init__.py", "loose_pkg/deep/part.py"]
)
def test_an_edited_helper_of_a_loose_file_changes_the_hash(folder, edited):
    write(folder / "loose_method.py", "import loose_helper, loose_pkg.deep.part\n" + FORGET)
    for name in ("loose_helper.py", "loose_pkg/__init__.py", "loose_pkg/deep/__init__.py", "loose_pkg/deep/part.py"):
        write(folder / name)
    before, after = sources_around_an_edit("loose_method:forget", folder / edited)
    assert before != after


@pytest.mark.parametrize("edited", ["whole_pkg/method.py", "whole_pkg/__init__.py", "whole_pkg/sub/helper.py"])
def test_an_edited_module_of_a_package_changes_the_hash(folder, edited):
    write(folder / "whole_pkg/method.py", FORGET)
    for name in ("whole_pkg/__init__.py", "whole_pkg/sub/__init__.py", "whole_pkg/sub/helper.py"):
        write(folder / name)
    before, after = sources_around_an_edit("whole_pkg.method:forget", folder / edited)
    assert before != after


def test_an_unrelated_file_does_not_change_the_hash(folder, tmp_path_factory):
    write(folder / "lone_pkg/__init__.py", FORGET)
    write(folder / "lone_pkg/notes.txt", "read me")
    elsewhere = write(tmp_path_factory.mktemp("elsewhere") / "unrelated.py")
    beside = write(folder / "beside.py")
    for file in (elsewhere, beside, folder / "lone_pkg/notes.txt"):
        before, after = sources_around_an_edit("lone_pkg:forget", file)
        assert before == after


def test_an_unrelated_folder_does_not_change_the_hash_of_a_loose_file(folder, tmp_path_factory):
    write(folder / "solo_method.py", FORGET)
    before, after = sources_around_an_edit("solo_method:forget", write(tmp_path_factory.mktemp("other") / "x.py"))
    assert before == after


def test_renaming_a_helper_changes_the_hash(folder):
    write(folder / "ren_method.py", FORGET)
    helper = write(folder / "ren_helper.py", "x = 1\n")
    before = resolve("unlearner", "ren_method:forget").source
    helper.rename(folder / "ren_other.py")
    assert resolve("unlearner", "ren_method:forget").source != before


def test_methods_of_the_tree_have_sources_of_their_own():
    names = ("cfk", "euk", "ga", "gd", "neggrad_plus", "ngd", "rewind", "scrub", "short", "ssd", "undo")
    assert len({resolve("unlearner", name).source for name in names}) == len(names)
    assert resolve("unlearner", "identity").source == resolve("unlearner", "retrain").source


def test_every_registered_thing_resolves():
    for kind in registry.GROUPS:
        for name in available(kind):
            assert resolve(kind, name).id == name


# ---- objects and things of the wrong kind


class Settings:
    """Something that is no plain value."""

    def __init__(self, x):
        self.x = x


def configured(model, request, settings=None):
    return model


def test_objects_in_place_of_plain_values_never_share_an_identity():
    import functools

    seen = set()
    for x in range(50):  # freed at once, so that addresses repeat
        seen.add(str(register("unlearner", functools.partial(configured, settings=Settings(x))).identity))
    assert len(seen) == 50


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("poison", "os:getcwd", "is not a valid poison: it lacks modality, measure, plant, probe"),
        ("task", "unlearners.gd:GD", "is not a valid task: it lacks modality"),
        ("unlearner", "builtins:dict", "is a builtin without a readable signature"),
    ],
)
def test_things_of_the_wrong_kind_are_named_as_such(kind, spec, said):
    with pytest.raises(SpecError, match=said):
        resolve(kind, spec)


def test_a_factory_function_makes_a_poison(folder):
    write(
        folder / "factory_module.py",
        "from poisons.backdoor import Backdoor\ndef corner(size: int = 1):\n    return Backdoor(size=size)\n",
    )
    found = resolve("poison", "factory_module:corner:size=3")
    assert found.value.size == 3
    assert found.fields == {"size": 3}


# ---- several at once


def test_all_are_the_registered_ones_without_the_controls():
    from harness.registry import resolve_all

    names = [each.id for each in resolve_all("unlearner", ["all"])]
    assert {"cfk", "euk", "ga", "gd", "neggrad_plus", "ngd", "rewind", "scrub", "ssd", "undo"} <= set(names)
    assert not {"retrain", "identity", "wrecked", "short"} & set(names)
    assert [each.id for each in resolve_all("unlearner", ["gd", "identity", "gd"])] == ["gd", "identity"]


def test_cells_pair_every_method_with_the_poisons_that_a_task_lists():
    from harness.registry import cells, resolve_all

    found = cells(resolve_all("unlearner", ["gd", "scrub"]), [resolve("task", "digits-cnn")])
    assert [cell.id for cell in found] == [
        "gd-digits-cnn-backdoor", "gd-digits-cnn-gaussian", "scrub-digits-cnn-backdoor", "scrub-digits-cnn-gaussian",
    ]  # fmt: skip


def test_a_poison_of_another_modality_is_refused_by_name():
    from dataclasses import replace

    from harness.registry import cells

    @dataclass(frozen=True)
    class Letters:
        modality = "text"
        poisons = ()

    task = replace(resolve("task", "digits-cnn"), id="letters", value=Letters())
    with pytest.raises(SpecError, match=r"no poison fits the text task 'letters' \(given: backdoor\)"):
        cells([resolve("unlearner", "gd")], [task], ["backdoor"])
    with pytest.raises(SpecError, match=r"no poison fits the text task .* \(given: none\)"):
        cells([resolve("unlearner", "gd")], [task])


class Bare:
    """A poison, say, that is no dataclass: its objects are equal to themselves alone."""


def test_what_went_to_another_process_and_back_is_the_same():
    here = Registered("poison", "plain", "plain", Bare(), {}, "(local)", "", "0" * 64)
    there = pickle.loads(pickle.dumps(here))
    assert there.value != here.value
    assert there == here
    assert hash(there) == hash(here)
    assert replace(here, source="1" * 64) != here
