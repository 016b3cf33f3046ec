"""The fields of the methods: which values are refused, and how they are typed."""

import math
from itertools import product

import pytest

from harness.registry import available, resolve
from harness.specs import SpecError
from unlearners.bad_teacher import BadTeacher
from unlearners.certified import Certified
from unlearners.cfk import CFk
from unlearners.controls import Short
from unlearners.euk import EUk
from unlearners.ga import GA
from unlearners.gd import GD
from unlearners.graddiff import GradDiff
from unlearners.influence import Influence
from unlearners.l1_sparse import L1Sparse
from unlearners.msa import MSA
from unlearners.neggrad_plus import NegGradPlus
from unlearners.ngd import NGD
from unlearners.npo import NPO
from unlearners.potion import Potion
from unlearners.rewind import Rewind
from unlearners.rmu import RMU
from unlearners.salun import SalUn
from unlearners.scrub import SCRUB
from unlearners.scrub_r import SCRUBR
from unlearners.simnpo import SimNPO
from unlearners.ssd import SSD
from unlearners.task_arithmetic import TaskArithmetic
from unlearners.undial import UNDIAL
from unlearners.undo import UNDO

NAN, INF = math.nan, math.inf
TRAINED = (
    GD, NGD, GA, NegGradPlus, SCRUB, CFk, EUk, UNDO, Rewind, Short, SCRUBR, SalUn, L1Sparse, BadTeacher, MSA, Certified,
    *(PAIRED := (GradDiff, NPO, SimNPO, UNDIAL, RMU)), TaskArithmetic,
)  # fmt: skip
BAD = [
    *((method, "lr", (0, -1, NAN, INF)) for method in TRAINED),
    *((method, "epochs", (0, -1, NAN)) for method in TRAINED),
    *((method, "batch_size", (0, -1, NAN)) for method in TRAINED),
    *((method, "optimizer", ("adamw", "", None)) for method in TRAINED),
    (NGD, "variance", (-1e-12, NAN, INF)),
    (NegGradPlus, "beta", (-0.01, 1.01, NAN)),
    (NegGradPlus, "forget_batch_size", (0, -1, NAN)),
    *((method, "alpha", (-0.1, NAN)) for method in (SCRUB, SCRUBR)),
    *((method, "gamma", (-0.1, NAN)) for method in (SCRUB, SCRUBR)),
    *((method, "temperature", (0, -1, NAN)) for method in (SCRUB, SCRUBR)),
    *((method, "max_epochs", (-1, NAN)) for method in (SCRUB, SCRUBR)),
    *((method, "min_epochs", (0, -1, NAN)) for method in (SCRUB, SCRUBR)),
    *((method, "forget_batch_size", (0, -1, NAN)) for method in (SCRUB, SCRUBR)),
    (SCRUBR, "held_out", (0, 1, -0.1, NAN)),
    (SSD, "alpha", (0, -1, NAN, INF)),
    (SSD, "dampening", (0, -1, NAN, INF)),
    (SSD, "batch_size", (0, -1, NAN)),
    (CFk, "k", (0, -1, NAN)),
    (EUk, "k", (0, -1, NAN)),
    (UNDO, "a", (-0.01, 1.01, NAN)),
    (UNDO, "scale", (-0.01, NAN, INF)),
    (UNDO, "temperature", (0, -1, NAN)),
    (Rewind, "to", (-0.01, 1.01, NAN)),
    (SalUn, "salient", (0, -0.1, 1.01, NAN)),
    (L1Sparse, "gamma", (-1e-9, NAN, INF)),
    (BadTeacher, "sample", (0, -0.1, 1.01, NAN)),
    (BadTeacher, "temperature", (0, -1, NAN)),
    (MSA, "to", (-0.01, 1.01, NAN)),
    (MSA, "alpha", (-0.1, NAN, INF)),
    (MSA, "beta", (-0.1, NAN, INF)),
    (MSA, "forget_epochs", (0, -1, NAN)),
    (Influence, "alpha", (0, -1, NAN, INF)),
    (Influence, "points", (0, -1, NAN)),
    (Influence, "batch_size", (0, -1, NAN)),
    (Potion, "rho", (-0.1, 1, NAN)),
    (Potion, "batch_size", (0, -1, NAN)),
    *((Certified, field, (0, -1, NAN, INF)) for field in ("epsilon", "clip", "grad_clip", "noise_lr")),
    (Certified, "delta", (0, 1, NAN)),
    (Certified, "decay", (-1, 10001, NAN, INF)),
    (Certified, "noise_steps", (0, -1, NAN)),
    *((method, "forget_batch_size", (0, -1, NAN)) for method in PAIRED),
    (GradDiff, "beta", (-0.01, 1.01, NAN)),
    *((method, "beta", (0, -1, NAN, INF)) for method in (NPO, SimNPO)),
    *((method, "weight", (-0.1, NAN, INF)) for method in (NPO, SimNPO)),
    (SimNPO, "gamma", (-0.1, NAN, INF)),
    (UNDIAL, "beta", (-0.1, NAN, INF)),
    *((method, "alpha", (-0.1, NAN, INF)) for method in (UNDIAL, RMU, TaskArithmetic)),
    (RMU, "depth", (0, 1.01, NAN)),
    (RMU, "c", (-0.1, NAN, INF)),
]
NAMES = {type(resolve("unlearner", name).value): name for name in available("unlearner")}


@pytest.mark.parametrize(("method", "field", "value"), [(m, f, v) for m, f, values in BAD for v in values])
def test_a_field_out_of_range_is_refused(method, field, value):
    with pytest.raises(ValueError, match=f"{field} .*must"):
        method(**{field: value})


def test_the_fields_above_are_all_that_there_are():
    named = {(method, field) for method, field, _ in BAD}
    methods = [resolve("unlearner", name).value for name in available("unlearner")]
    ours = [method for method in methods if type(method).__module__.startswith("unlearners.")]
    assert named == {(type(method), field) for method in ours for field in vars(method)}


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (NGD, {"variance": 0}),
        (NegGradPlus, {"beta": 0, "forget_batch_size": 1}),
        (NegGradPlus, {"beta": 1}),
        (SCRUB, {"alpha": 0, "gamma": 0, "max_epochs": 0, "forget_batch_size": 1}),
        (SSD, {"batch_size": 1}),
        (SSD, {"batch_size": None}),
        (CFk, {"k": 1}),
        (EUk, {"k": 1}),
        (SCRUB, {"min_epochs": 1}),
        (UNDO, {"scale": 0}),
        (UNDO, {"a": 0}),
        (UNDO, {"a": 1}),
        (SCRUBR, {"max_epochs": 0, "held_out": 0.999}),
        (SalUn, {"salient": 1}),
        (L1Sparse, {"gamma": 0}),
        (BadTeacher, {"sample": 1}),
        (MSA, {"to": 0, "alpha": 0, "beta": 0, "forget_epochs": 1}),
        (Influence, {"points": 1, "batch_size": 1}),
        (Potion, {"rho": 0}),
        (Certified, {"decay": 0, "noise_steps": 1}),
        (Certified, {"decay": 10000}),
        *((method, {"forget_batch_size": 1}) for method in PAIRED),
        *((method, {"weight": 0}) for method in (NPO, SimNPO)),
        (SimNPO, {"gamma": 0}),
        (UNDIAL, {"beta": 0, "alpha": 0}),
        (RMU, {"depth": 1, "c": 0, "alpha": 0}),
        (TaskArithmetic, {"alpha": 0}),
        (Rewind, {"to": 0}),
        (Rewind, {"to": 1}),
        *((method, {"epochs": 1, "lr": 1e-300, "batch_size": 1}) for method in TRAINED),
    ],
)
def test_the_ends_of_a_range_are_allowed(method, fields):
    made = method(**fields)
    assert {name: getattr(made, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gd:lr=-1", "the unlearner 'gd': lr must be positive, not -1.0"),
        ("ngd:variance=nan", "the unlearner 'ngd': variance must not be negative, not nan"),
        (
            "gd:optimizer=lion",
            "the field 'optimizer' of the unlearner 'gd' takes one of recipe, adam, sgd, not 'lion'",
        ),
        ("ga:epochs=0", "the unlearner 'ga': epochs must be at least 1, not 0"),
        ("neggrad_plus:beta=2", "the unlearner 'neggrad_plus': beta must lie in [0, 1], not 2.0"),
        ("ssd:alpha=inf", "the unlearner 'ssd': alpha must be positive, not inf"),
        ("cfk:k=0", "the unlearner 'cfk': k must be at least 1, not 0"),
        ("undo:a=1.5", "the unlearner 'undo': a must lie in [0, 1], not 1.5"),
        ("rewind:to=-1", "the unlearner 'rewind': to must lie in [0, 1], not -1.0"),
    ],
)
def test_what_is_refused_on_the_command_line_is_said_in_one_sentence(spec, message):
    with pytest.raises(SpecError) as caught:
        resolve("unlearner", spec)
    assert str(caught.value) == message


@pytest.mark.parametrize("method", TRAINED, ids=lambda m: m.__name__)
def test_the_rates_and_epochs_of_the_paper_can_be_typed(method):
    for lr, epochs in product(("1e-6", "5e-6", "1e-5", "5e-5"), (2, 4, 6, 8, 10)):
        found = resolve("unlearner", f"{NAMES[method]}:lr={lr},epochs={epochs}")
        assert (found.value.lr, found.value.epochs) == (float(lr), epochs)
        assert resolve("unlearner", found.id) == found


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        ("ngd:variance=1e-7", {"variance": 1e-7}),
        ("neggrad_plus:beta=0.9999", {"beta": 0.9999}),
        ("ssd:alpha=10,dampening=1", {"alpha": 10.0, "dampening": 1.0}),
        ("ssd:alpha=0.1,batch_size=64", {"alpha": 0.1, "batch_size": 64}),
        ("ga:batch_size=1", {"batch_size": 1}),
        ("ga:batch_size=none", {"batch_size": None}),
        ("scrub:temperature=4,max_epochs=2,forget_batch_size=32", {"temperature": 4.0, "max_epochs": 2}),
        ("cfk:k=3", {"k": 3}),
        ("undo:a=0.3,scale=0.1,temperature=1", {"a": 0.3, "scale": 0.1, "temperature": 1.0}),
        ("gd:optimizer=adam,batch_size=16", {"optimizer": "adam", "batch_size": 16}),
        ("short:optimizer=sgd,batch_size=none", {"optimizer": "sgd", "batch_size": None}),
        ("scrub:max_epochs=2,min_epochs=5", {"max_epochs": 2, "min_epochs": 5}),
        ("rewind:to=0.05", {"to": 0.05}),
        ("scrub_r:min_epochs=5,held_out=0.2", {"min_epochs": 5, "held_out": 0.2}),
        ("salun:salient=0.1", {"salient": 0.1}),
        ("l1_sparse:gamma=1e-4", {"gamma": 1e-4}),
        ("bad_teacher:optimizer=adam,sample=1", {"optimizer": "adam", "sample": 1.0}),
        ("msa:alpha=2,beta=0,forget_epochs=5", {"alpha": 2.0, "beta": 0.0, "forget_epochs": 5}),
        ("influence:alpha=20,points=1002", {"alpha": 20.0, "points": 1002}),
        ("potion:rho=0.75", {"rho": 0.75}),
        ("certified:epsilon=8,delta=1e-6", {"epsilon": 8.0, "delta": 1e-6}),
    ],
)
def test_other_values_of_the_sources_can_be_typed(spec, fields):
    found = resolve("unlearner", spec)
    assert {name: getattr(found.value, name) for name in fields} == fields
    assert all(type(getattr(found.value, name)) is type(value) for name, value in fields.items())
    assert resolve("unlearner", found.id) == found
