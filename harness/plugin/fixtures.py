"""What a test can ask for: ``audited``, ``clause``, ``verdict``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from harness.api import DeviceLost
from harness.calling import calling
from harness.cells import Cell
from harness.contract.lines import Clause
from harness.judging.claims import CLAIMS
from harness.plugin.items import REPORTED, claim_of, is_control
from harness.plugin.session import session_of
from harness.report.collected import BLANK, made_of, plain
from harness.report.document import finite_tree
from harness.report.words import properties, worst_seed


@pytest.fixture
def audited(request: pytest.FixtureRequest) -> Cell:
    """The cell that an audit is about."""
    cell: Cell = request.param
    return cell


@pytest.fixture
def clause(request: pytest.FixtureRequest) -> Clause:
    """One line of the contract of one unlearner."""
    session = session_of(request.config)
    found: Clause = replace(request.param, store=session.store, datasets=session.datasets)
    request.node.stash[REPORTED] = {
        "contract": {"unlearner": found.method.id, "line": found.line, "kept": False, "sentence": ""}
    }
    return found


@pytest.fixture
def verdict(request: pytest.FixtureRequest, audited: Cell) -> Any:
    """The verdict of the audit; what its unlearner raises is an error of this fixture, not a failure of the test."""
    session, item = session_of(request.config), request.node
    study, settings = session.study, session.settings
    name = claim_of(item)
    claim = CLAIMS[name]
    kind = "audit" if claim.gates else "heuristic"
    cell = {"unlearner": audited.unlearner.id, "task": audited.task.id, "poison": audited.poison.id}
    common = {
        **cell,
        "poison_fields": dict(audited.poison.fields),
        "discovery": audited.discovery,
        "claim": name,
        "control": is_control(item),
        "command": settings.command(item, audited.unlearner.id),
        "made_of": made_of(audited.unlearner),
    }
    # An error leaves this much in the report.
    item.stash[REPORTED] = {kind: {**BLANK, **common, "measure": claim.criteria(audited, study.limits)[0].measure.name}}
    started = time.perf_counter()
    with calling(f"the audit of {audited.id}", passing=(DeviceLost,)):
        found = study.verdict(audited, name)
    # Beside a claim that only informs stands what the audit of the poison concludes from the same models.
    beside = (
        {"references": finite_tree(study.references(audited))}
        if claim.gates
        else {"poison_verdict": study.verdict(audited, "poison").outcome.value}
    )
    numbers = {**plain(found), "seconds": round(time.perf_counter() - started, 4)}
    load = settings.load_line(**cell, discovery=audited.discovery, seed=worst_seed(found), made_on=study.lab.made_on)
    item.stash[REPORTED] = {kind: {**numbers, **common, **beside, "load": load}}
    item.user_properties += properties(numbers)
    return found
