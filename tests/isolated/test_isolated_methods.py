"""Honest methods give the same, isolated or not; others get what they deserve, in one sentence."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from asking import Request
from labs import BEHIND_WALLS, TINY

from harness import registry
from harness.api import DECLARATIONS, ContractError, UnlearningError, declares
from harness.cells import Cell
from harness.guards.clock import TimedOut
from harness.isolated import method as isolation
from harness.isolated import process, walls
from harness.isolated.process import Limits, MethodError
from harness.specs import SpecError
from harness.tasks._bases import FOLDER
from harness.training.data import digest
from harness.training.isolation import isolated_rng
from harness.training.unlearning import unlearn

pytestmark = BEHIND_WALLS
ADAPTED = "harness.adapters:NeurIPS2023:function=theirs:forget"


@pytest.fixture
def asked():
    return Request()


@pytest.mark.parametrize(
    "spec",
    ["gd", "scrub:gamma=2", "ngd", "rewind", "euk", "hostile:looks_up_its_request", "hostile:writes_temporary_files"],
)
def test_weights_are_equal_bit_by_bit(asked, spec):
    (own, cost), (model, meter) = asked.isolated(spec), asked.ordinary(spec)
    assert digest(own.state_dict()) == digest(model.state_dict())
    assert (cost.examples, cost.steps, cost.flops) == (meter.examples, meter.steps, meter.flops)


@pytest.mark.parametrize("spec", ["slow=scrub:gamma=2", "rewind", "euk", "certified:epsilon=2", ADAPTED])
def test_a_method_is_described_without_being_imported(spec, monkeypatch, tmp_path):
    (tmp_path / "theirs.py").write_text("def forget(net, retain, forget, val):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = isolation.resolve(spec)
    assert "theirs" not in sys.modules
    expected = registry.resolve("unlearner", spec)
    assert (found.id, found.name, found.fields, found.version) == (
        expected.id, expected.name, expected.fields, expected.version,
    )  # fmt: skip
    assert found.source == expected.source
    assert found.identity == {**expected.identity, "isolated": True}
    for name in set(DECLARATIONS) - {"history", "wraps"}:
        assert declares(found.value, name) == declares(expected.value, name)
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize(
    ("name", "said"), [("certifies_one_number", "1.0"), ("certifies_nothing_known", "<object object at .*>")]
)
def test_a_certificate_that_is_none_is_refused_as_it_is_in_this_process(name, said):
    with pytest.raises(SpecError, match=rf"declares certifies = {said}; it must be \(epsilon, delta\)"):
        isolation.resolve(f"hostile:{name}")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nothing", "unknown unlearner 'nothing'"),
        ("scrub:gama=2", "no field 'gama'; did you mean gamma"),
        ("hostile:nothing", "hostile has no attribute 'nothing'"),
        ("nowhere.at_all:method", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_resolved_is_said_as_ever(spec, says):
    with pytest.raises(SpecError, match=says):
        isolation.resolve(spec)


def test_a_callable_of_this_process_is_refused():
    def forget(model, request):
        return model

    with pytest.raises(UnlearningError, match="forget is a callable of this process and cannot be isolated; name"):
        isolation.method(forget)


def test_nothing_is_carried_from_one_request_to_the_next(asked):
    first, second = (digest(asked.isolated("hostile:counts")[0].state_dict()) for _ in range(2))
    assert first == second


def test_patches_stay_where_they_are(asked):
    from harness.judging import judge

    with pytest.raises(ContractError, match=r"replaced harness\.training\.meter\.Meter\.__exit__"):
        asked.isolated("hostile:patches")
    assert judge.judge is not None


@pytest.mark.parametrize("name", ["sleeps", "waits_for_a_child"])
def test_what_does_not_end_is_stopped(asked, name):
    started = time.monotonic()
    with pytest.raises(TimedOut, match=f"'hostile:{name}' did not end within 3 seconds"):
        asked.isolated(f"hostile:{name}", Limits(seconds=3))
    assert time.monotonic() - started < 30
    asked.isolated("gd")  # the server lives on


def test_a_child_that_stays_is_ended(asked):
    asked.isolated("hostile:leaves_a_child")
    assert "sleep 54321" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["allocates", "hoards"])
def test_memory_has_a_limit(asked, name):
    with pytest.raises(UnlearningError, match=r"ran out of memory; .* may use 0\.5 GiB"):
        asked.isolated(f"hostile:{name}", Limits(memory=1 << 29))


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("really_exits", UnlearningError, "ended its own process and returned nothing: good bye"),
        ("crashes", UnlearningError, "crashed its process .SIGSEGV"),
        ("raises", MethodError, "KeyError: 'no such thing'"),
        ("reads", MethodError, "PermissionError: .*; isolated, it can read only"),
        ("fakes", UnlearningError, "left an answer that cannot be read"),
        ("hands_out_links", UnlearningError, "left an answer that cannot be read"),
        ("other_network", ContractError, "returned another architecture"),
    ],
)
def test_how_it_ended_is_said_in_a_sentence(asked, name, kind, says):
    with pytest.raises(kind, match=says) as caught:
        asked.isolated(f"hostile:{name}")
    assert type(caught.value) is kind


def test_an_error_carries_its_traceback(asked):
    with pytest.raises(MethodError) as caught:
        asked.isolated("hostile:raises")
    assert "in raises" in caught.value.__notes__[0]
    with pytest.raises(ContractError) as broken:
        asked.isolated("hostile:other_network")
    assert broken.value.line == "same-architecture"


def test_processor_time_counts_children(asked):
    _, cost = asked.isolated("hostile:computes_elsewhere")
    assert cost.examples == 0
    assert 0.9 < cost.cpu_seconds < 3


def test_the_judges_generators_are_left_alone(asked):
    before = torch.get_rng_state()
    asked.isolated("gd")
    assert torch.equal(before, torch.get_rng_state())


def test_it_cannot_be_called_here():
    with pytest.raises(UnlearningError, match="runs isolated, and cannot be called in this process"):
        isolation.resolve("gd").value(None, None)


DEPENDING = """
import pathlib

import helping.inner

HERE = pathlib.Path(__file__).parent


def forget(model, request):
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(helping.inner.VALUE * float((HERE / "value.txt").read_text()))
    return model


def peeks(model, request):
    (HERE / "other.txt").read_text()
    return model


forget.depends_on = "value.txt"
"""


@pytest.fixture
def depending(tmp_path, monkeypatch):
    (tmp_path / "helping").mkdir()
    (tmp_path / "helping" / "inner.py").write_text("VALUE = 2.0\n")
    (tmp_path / "depending.py").write_text(DEPENDING)
    for name in ("value", "other"):
        (tmp_path / f"{name}.txt").write_text("3")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("depending", "helping")]:
        del sys.modules[name]


def test_it_reads_what_its_source_names_and_nothing_beside(asked, depending):
    model, _ = asked.isolated("depending:forget")
    assert {float(p.detach().mean()) for p in model.parameters()} == {6.0}
    with pytest.raises(MethodError, match=r"PermissionError: .*other.txt"):
        asked.isolated("depending:peeks")


def test_what_it_depends_on_is_in_its_source(depending):
    first = isolation.resolve("depending:forget").source
    assert first == registry.resolve("unlearner", "depending:forget").source
    (depending / "value.txt").write_text("4")
    assert isolation.resolve("depending:forget").source != first


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ("depends_on = 'missing.csv'", "names neither a file or folder beside that file nor a module"),
        ("depends_on = 5", "'depending:forget' cannot be described: TypeError"),
        ("history = 5", "'depending:forget' cannot be described: TypeError"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_a_sentence(depending, declared, says):
    (depending / "depending.py").write_text(f"def forget(model, request):\n    return model\n\n\nforget.{declared}\n")
    with pytest.raises(SpecError, match=says):
        isolation.resolve("depending:forget")


def test_a_method_that_the_judge_imports_is_not_isolated(depending, monkeypatch):
    (depending / "both.py").write_text(
        "from tiny import Tiny as Task\n\n\ndef forget(model, request):\n    return model\n"
    )
    method = isolation.resolve("both:forget")
    poison = registry.resolve("poison", "backdoor")
    isolation.require_separate([Cell(method, TINY, poison)])
    try:
        with pytest.raises(UnlearningError, match="the task 'both:Task' imports its module; move it to one of its own"):
            isolation.require_separate([Cell(method, registry.resolve("task", "both:Task"), poison)])
        adapted = registry.resolve("unlearner", "harness.adapters:NeurIPS2023:function=both:forget")
        for each in (method, replace(method, id="slow=both:forget"), replace(adapted, isolated=True)):
            with pytest.raises(UnlearningError, match="this process has imported its module; run it in another proce"):
                isolation.require_separate([Cell(each, TINY, poison)])
    finally:
        sys.modules.pop("both", None)


def test_a_method_of_an_unknown_module_is_neither_hashed_nor_isolated():
    with pytest.raises(SpecError, match="unknown unlearner 'nothing'"):
        isolation._sources("unlearner", "nothing", strictly=True)
    method = replace(registry.resolve("unlearner", "gd"), id="nothing", isolated=True)
    with pytest.raises(UnlearningError, match="'nothing' cannot be isolated: its module is unknown"):
        isolation.require_separate([Cell(method, TINY, registry.resolve("poison", "backdoor"))])


def test_a_control_is_ours_whatever_it_is_called():
    assert not isolation.resolve("again=retrain").isolated


def test_nobody_depends_on_the_store(asked, depending, monkeypatch):
    monkeypatch.setattr(walls, "HIDDEN", {})
    walls.require_hidden({"the store": depending / "value.txt"})
    with pytest.raises(UnlearningError, match=r"value\.txt, on which the method depends, is in the store, which"):
        asked.isolated("depending:forget")


TRAINER = """
from transformers import Trainer


class Ascent(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        return -model(**inputs["forget"]).loss
"""


def test_a_language_model_is_loaded_before_the_walls_are_up(tmp_path, monkeypatch):
    folder = tmp_path / "model"  # which the method's process cannot read
    shutil.copytree(FOLDER, folder)
    task = registry.resolve("task", f"causal-lm:model={folder},train_size=40,test_size=10,epochs=1")
    with isolated_rng(0):
        state = task.value.new_model().state_dict()
    retain, forget = (task.value.load(None).train.subset(torch.arange(*of)) for of in ((0, 32), (32, 40)))
    given = {"budget": 1.0, "seed": 3}
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ascending.py").write_text(TRAINER)
    for spec in ("gd", "harness.adapters:OpenUnlearning:trainer=ascending:Ascent"):
        own, cost = isolation.unlearn(
            isolation.resolve(spec), task, state, retain, forget, history={}, limits=Limits(), **given
        )
        model, meter = unlearn(registry.resolve("unlearner", spec), task.value, state, retain, forget, **given)
        assert digest(own.state_dict()) == digest(model.state_dict())
        assert (cost.examples, cost.steps) == (meter.examples, meter.steps)
    # Nobody pays for what the server imports.
    assert "transformers.trainer" in process.server()._imported
    sys.modules.pop("ascending", None)
