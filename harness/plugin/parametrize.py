"""Audits in anybody's own test file: a decorator over the engine that also runs ``test_suites``. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.api import UnlearningError
from harness.cells import Cell, Registered
from harness.importing import trace
from harness.isolated import method as isolation
from harness.judging.claims import CLAIMS, GATING, Claim
from harness.judging.drawing import text_of
from harness.plugin.settings import Settings


def parametrize_with_audits(
    unlearners: Sequence[str | Callable[..., Any]],
    *,
    task: str = DEFAULTS["task"],
    poison: str | Sequence[str] = (),
    claims: Sequence[str] = ("poison", "accuracy", "cost"),
) -> pytest.MarkDecorator:
    """Give a test one case per audit of some methods, or per line of their contract.

    ::

        @harness.parametrize_with_audits(["mine", forget], task="digits-mlp")
        def test_unlearning(verdict):
            verdict.require()


        @harness.parametrize_with_audits(["mine", forget])
        def test_contract(clause):
            harness.examine(clause)

    A test that asks for ``verdict`` is an audit like those of ``test_suites``: trials run before it, as items of their
    own, and the ``--audit-*`` options of the run apply to it. ``--unlearner``, ``--task`` and ``--poison`` do not.

    Args:
        unlearners: Callables ``(model, request) -> model``, or specs as on the command line.
        task: Spec of a task.
        poison: Specs of poisons; empty for those that the task lists.
        claims: Any of ``"poison"``, ``"accuracy"``, ``"cost"`` and ``"relearning"``.

    Returns:
        The decorator. Names are looked up when tests are collected. A name that cannot be found or used is an error of
        the collection.

    Raises:
        UnlearningError: A claim is unknown, or a single spec is given in place of a list.
    """
    for name, given in (("unlearners", unlearners), ("claims", claims)):
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise UnlearningError(f"parametrize_with_audits: {name} must be a non-empty list, not {given!r}")
    if unknown := [claim for claim in claims if claim not in GATING]:
        raise UnlearningError(f"parametrize_with_audits: the claims are {', '.join(GATING)}; not {unknown[0]!r}")
    poisons = (poison,) if isinstance(poison, str) else tuple(poison)
    return pytest.mark.audits(tuple(unlearners), task, poisons, tuple(claims))


def parametrize(metafunc: pytest.Metafunc, settings: Settings) -> None:
    """Give an audit its cells, and a test of the contract its methods and lines; other tests are left alone.

    Raises:
        pytest.UsageError: The test asks for a verdict and names no claim; a name of the command line cannot be used.
        CollectError: A name of the decorator cannot be found or used, or its method is not the same in every process.
    """
    if (decorated := metafunc.definition.get_closest_marker("audits")) is not None:
        _parametrize_decorated(metafunc, decorated, settings)
        return
    if "clause" in metafunc.fixturenames and metafunc.definition.get_closest_marker("contract") is not None:
        _give_clauses(metafunc, settings, settings.unlearners, settings.tasks[0])
    if "audited" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("audit")
    claims = claims_in(mark) if mark is not None else []
    if mark is None or not claims:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid} asks for a verdict; mark it with @pytest.mark.audit(claim), "
            f"claim one of {', '.join(map(repr, CLAIMS))}"
        )
    control = mark.kwargs.get("control")
    cells = [cell for cell in settings.cells if control is None or cell.unlearner.name == control]
    _give_cells(metafunc, cells, claims, named=len(claims) > 1, control=control)


def claims_in(mark: pytest.Mark) -> list[Claim]:
    """Return the claims that a mark ``audit`` names; empty for a mark of that name that is somebody else's."""
    known = all(isinstance(name, str) and name in CLAIMS for name in mark.args)
    return [CLAIMS[name] for name in mark.args] if known else []


def _give_cells(
    metafunc: pytest.Metafunc, cells: Sequence[Cell], claims: Sequence[Claim], named: bool, control: str | None = None
) -> None:
    """Give a test a case per cell and claim; the id names the claim if the test has several."""
    cases = [
        pytest.param(
            cell,
            marks=pytest.mark.audit(claim.name, control=control),
            id=f"{cell.id}-{claim.name}" if named else cell.id,
        )
        for cell in cells
        for claim in claims
        if claim.applies(cell)
    ]
    metafunc.parametrize("audited", cases, indirect=True)


def _parametrize_decorated(metafunc: pytest.Metafunc, mark: pytest.Mark, settings: Settings) -> None:
    unlearners, spec, poisons, claims = mark.args
    try:
        method = isolation.method if settings.isolated else _method
        methods, task = [method(each) for each in unlearners], registry.resolve("task", spec)
        cells = registry.cells(methods, [task], poisons, settings.discovery)
        isolation.require_separate(cells)
        _require_drawn(methods, settings)
    except UnlearningError as error:
        raise pytest.Collector.CollectError("\n".join([str(error), *trace(error.__cause__)])) from None
    if "clause" in metafunc.fixturenames:
        _give_clauses(metafunc, settings, methods, task)
        return
    _give_cells(metafunc, cells, [CLAIMS[name] for name in claims], named=True)


def _give_clauses(
    metafunc: pytest.Metafunc, settings: Settings, methods: Sequence[Registered], task: Registered
) -> None:
    clauses = settings.clauses(methods, task)
    metafunc.parametrize("clause", clauses, ids=map(str, clauses), indirect=True)


def _require_drawn(methods: Sequence[Registered], settings: Settings) -> None:
    """Refuse methods that have no part in the draw of the seeds, if seeds are drawn."""
    for method in methods:
        if settings.draw is not None and text_of(method) not in settings.draw.texts:
            raise UnlearningError(
                f"the seeds of this run were not drawn by {method.name}; name it with --audit-seeds-for={method.id}"
            )


def _method(unlearner: str | Callable[..., Any]) -> Registered:
    found = registry.method(unlearner)
    if found.identity != registry.method(unlearner).identity:
        raise UnlearningError(
            f"{found.name} is made with objects that are not plain values, so another process cannot recognise it: "
            "name it by a spec, or make it a dataclass with plain fields"
        )
    return found
