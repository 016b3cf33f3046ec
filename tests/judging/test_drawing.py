"""The seeds of a submission: they follow from what is submitted and from a secret, by a rule that is written down."""

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugins import write

from harness import registry
from harness.api import UnlearningError
from harness.cells import Registered
from harness.judging.drawing import POOL, SHORTEST, draw, read_salt
from harness.judging.plan import LOOKS, Plan
from harness.studies.pilot import PILOT_SEED
from harness.studies.tuning import FINAL_SEEDS, TUNING_SEEDS

SALT = "correct horse battery staple"
ONE = "def forget(model, request, lr: float = 0.1):\n    return model\n"
EIGHT = ONE + "".join(f"\n\nname_{i} = forget\n" for i in range(7))


@pytest.fixture
def salt(monkeypatch):
    monkeypatch.setenv("SALT", SALT)
    return "env:SALT"


def submitted(fields, source="ab" * 32, name="mine:forget", isolated=False):
    return Registered("unlearner", name, name, None, fields, "(local)", "", source, isolated=isolated)


def test_the_rule_is_the_one_that_is_written_down(salt):
    fields = [{"lr": 0.1, "epochs": 2}, {"lr": 0.25}]
    texts = sorted(f'{{"fields":{json.dumps(f, sort_keys=True, separators=(",", ":"))},"source":"{"ab" * 32}"}}'
                   for f in fields)  # fmt: skip
    expected = []
    for i in range(100):
        digest = hmac.new(SALT.encode(), f"{i}\n{chr(10).join(texts)}".encode(), hashlib.sha256).hexdigest()
        seed = 1_000_000 + int(digest, 16) % 1_000_000
        expected += [seed] if seed not in expected else []
    found = draw(salt, map(submitted, fields))
    assert list(found.seeds) == expected[:16]
    assert found.salt == hashlib.sha256(SALT.encode()).hexdigest()[:8]
    assert SALT not in repr(found) + str(found)


def test_one_body_under_eight_names_draws_one_list(salt, modules):
    write(modules / "eight.py", EIGHT)
    names = ["eight:forget", *(f"eight:name_{i}" for i in range(7))]
    methods = [registry.resolve("unlearner", name) for name in names]
    lists = {draw(salt, [method]).seeds for method in methods}
    assert len(lists) == 1
    assert draw(salt, methods).seeds in lists, "the same body again adds nothing to a draw"


def test_fields_and_source_draw_anew_and_other_spellings_do_not(salt, modules):
    write(modules / "first.py", ONE)
    write(modules / "second.py", ONE + "# edited\n")
    specs = ("first:forget", "first:forget:lr=0.2", "second:forget", "second:forget:lr=0.2")
    lists = [draw(salt, [registry.resolve("unlearner", spec)]).seeds for spec in specs]
    assert len(set(lists)) == 4
    assert draw(salt, [registry.resolve("unlearner", "first:forget:lr=0.10")]).seeds == lists[0]
    assert draw(salt, [submitted({}, isolated=True)]).seeds == draw(salt, [submitted({})]).seeds


def test_the_order_of_methods_is_nothing_and_company_is_something(salt):
    one, other = submitted({"lr": 0.1}), submitted({"lr": 0.2})
    assert draw(salt, [one, other]) == draw(salt, [other, one])
    assert draw(salt, [one, other]).seeds != draw(salt, [one]).seeds


def test_another_salt_draws_anew(salt, monkeypatch):
    before = draw(salt, [submitted({})])
    monkeypatch.setenv("SALT", SALT + "!")
    after = draw(salt, [submitted({})])
    assert not set(before.seeds) & set(after.seeds)
    assert before.salt != after.salt


@given(fields=st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False) | st.text(), max_size=3))
def test_every_draw_is_a_plan_on_seeds_that_nothing_else_uses(tmp_path_factory, fields):
    file = write(tmp_path_factory.getbasetemp() / "salt", f"{SALT}\n")
    plan = Plan(drawn=draw(str(file), [submitted(fields)]).seeds)
    seeds = list(plan.numbers(LOOKS[-1]))
    assert len(set(seeds)) == LOOKS[-1]
    assert set(seeds) <= set(POOL)
    assert plan.numbers(3) == tuple(seeds[:3])


def test_the_pool_is_apart_from_what_everything_else_uses():
    others = [*Plan().numbers(LOOKS[-1]), PILOT_SEED, *TUNING_SEEDS, *FINAL_SEEDS, 99_999]
    assert not set(others) & set(POOL)


def test_a_plan_refuses_drawn_seeds_that_it_cannot_use():
    for drawn in ((1, 2, 3), (1,) * 16, tuple(range(17))):
        with pytest.raises(ValueError, match="16 different drawn seeds"):
            Plan(drawn=drawn)
    with pytest.raises(ValueError, match="16 seeds were drawn, not 17"):
        Plan(drawn=tuple(range(16))).numbers(17)


# ---- the salt


def test_the_salt_is_read_from_a_file_or_a_variable(tmp_path, salt):
    file = write(tmp_path / "salt.txt", f"{SALT}\n")
    assert read_salt(str(file)) == read_salt(salt) == SALT.encode()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("env:NOT_SET_HERE", "is not set; set it"),
        (SALT, "never write the salt itself on a command line"),
        ("{folder}", "name a file that holds it"),
        ("{folder}/binary", "name a file that holds it"),
        ("{folder}/short", "a salt of 15 characters; write at least 16 random ones"),
        ("{folder}/empty", "a salt of 0 characters"),
    ],
)
def test_a_salt_that_cannot_be_used_is_one_sentence_that_does_not_repeat_it(tmp_path, where, said):
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    short = write(tmp_path / "short", "x" * (SHORTEST - 1) + "\n").read_text().strip()
    write(tmp_path / "empty")
    with pytest.raises(UnlearningError) as raised:
        draw(where.format(folder=tmp_path), [submitted({})])
    assert said in str(raised.value)
    assert SALT not in str(raised.value)
    assert short not in str(raised.value)
