"""The grammar of names, what is said when a name does not resolve, and the hash of the source behind it."""

import functools
import re
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins import FORGET, write

from harness import registry
from harness.adapters import NeurIPS2023
from harness.api import UnlearningError
from harness.registry import register, resolve, resolve_all
from harness.sources import source_of
from harness.specs import SpecError, aliased, called, split


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


def certifies_one_number(model, request):
    return model


certifies_one_number.certifies = 1.0


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


def test_a_dotted_path_may_go_through_packages_and_classes(modules):
    write(modules / "outer_pkg/__init__.py")
    write(
        modules / "outer_pkg/inner.py",
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


def test_an_alias_is_another_name_for_the_same_method():
    plain, alias = resolve("unlearner", "gd:lr=0.1"), resolve("unlearner", "slow-1=gd:lr=0.10")
    assert alias.id == "slow-1=gd:lr=0.1"
    assert (called(alias.id), called(plain.id)) == ("slow-1", "gd:lr=0.1")
    assert alias.identity == plain.identity, "they share what is stored"
    assert resolve("unlearner", alias.id) == alias


def test_an_alias_names_one_method():
    specs = ["a=gd:lr=0.1", "a=gd:lr=0.10", "b=gd:lr=0.1", "gd:lr=0.1"]
    assert [each.id for each in resolve_all("unlearner", specs)] == ["a=gd:lr=0.1", "b=gd:lr=0.1", "gd:lr=0.1"]
    with pytest.raises(SpecError, match="is given to two methods"):
        resolve_all("unlearner", [*specs, "a=gd:lr=0.2"])


@pytest.mark.parametrize("spec", ["gd=ga", "short=gd", "retrain=gd:lr=0.1", "gd=gd"])
def test_an_alias_is_no_method_of_another_name(spec):
    alias, _ = aliased(spec)
    with pytest.raises(SpecError, match=f"'{alias}' is the name of a method, and no alias; choose another one"):
        resolve("unlearner", spec)


def test_a_method_has_one_alias():
    with pytest.raises(SpecError, match="'a=b=gd': a method can have one alias only; write a=gd"):
        resolve("unlearner", "a=b=gd")


@pytest.mark.parametrize("spec", ["gd", "gd:lr=0.1", "mine:forget", "mine:forget:lr=0.1,text=a=b", "mine.py:remove"])
def test_an_alias_is_no_part_of_what_it_names(spec):
    assert split(f"slow={spec}") == split(spec)


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


def test_annotations_for_type_checkers_only_do_not_hide_the_others(modules):
    write(
        modules / "typed_method.py",
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
        ("unlearner", "l1sparse", f"unknown unlearner 'l1sparse'; did you mean l1_sparse? ({listed('unlearner')})"),
        ("poison", "label-nois", f"unknown poison 'label-nois'; did you mean label-noise? ({listed('poison')})"),
        ("task", "zzz", f"unknown task 'zzz' ({listed('task')})"),
        ("unlearner", "", "unknown unlearner '' (available: "),
        ("unlearner", "gd:rate=1", "the unlearner 'gd' has no field 'rate' (its fields: lr, batch_size, "),
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
        ("poison", "mine=gaussian", "'mine=gaussian': only a method can have an alias; write 'gaussian'"),
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


def theirs(net, retain_loader, forget_loader, val_loader):
    return net


def test_what_an_adapter_adapts_is_named_by_its_path():
    one, other = (register("unlearner", NeurIPS2023(theirs)) for _ in range(2))
    assert one.identity == other.identity, "it is found again in the store"
    assert one.fields["function"] == f"{HERE}theirs"
    assert "modality" not in one.fields, "what its class declares is no field"
    changed = registry.with_fields(one, {"batch_size": 7})
    assert (changed.value.wraps, changed.value.batch_size) == (theirs, 7)


def test_what_no_path_leads_to_is_new_every_time():
    def make(rate):
        def within(net, retain_loader, forget_loader, val_loader):
            return rate

        return within

    assert len({str(register("unlearner", NeurIPS2023(make(0.1))).identity) for _ in range(2)}) == 2


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


def test_a_factory_function_makes_a_poison(modules):
    write(
        modules / "factory_module.py",
        "from poisons.backdoor import Backdoor\ndef corner(size: int = 1):\n    return Backdoor(size=size)\n",
    )
    found = resolve("poison", "factory_module:corner:size=3")
    assert found.value.size == 3
    assert found.fields == {"size": 3}


def test_two_traces_of_one_name_are_refused(tmp_path, monkeypatch):
    (tmp_path / "twice.py").write_text(
        "from dataclasses import replace\n"
        "from poisons.backdoor import Backdoor\n\n\n"
        "class Twice(Backdoor):\n"
        "    traces = (replace(Backdoor.measure, name='other'),)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        SpecError, match="'twice:Twice' has two traces called 'success'; give each Measure its own short"
    ):
        resolve("poison", "twice:Twice")


def test_what_a_method_declares_to_certify_is_read_before_anything_is_trained():
    with pytest.raises(SpecError, match=r"declares certifies = 1\.0; it must be \(epsilon, delta\)"):
        resolve("unlearner", f"{HERE}certifies_one_number")
    with pytest.raises(SpecError, match=r"declares certifies = 1\.0; it must be \(epsilon, delta\)"):
        register("unlearner", certifies_one_number)
