"""Audits in anybody's own test file: a decorator over the engine that also runs ``test_suites``. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness import registry
from harness.api import Registered, UnlearningError
from harness.judging.claims import GATING
from harness.plugin.settings import Settings


def parametrize_with_audits(
    unlearners: Sequence[str | Callable[..., Any]],
    *,
    task: str = "digits-cnn",
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
    own, and the ``--audit-*`` options of the run hold for it. ``--unlearner``, ``--task`` and ``--poison`` do not.

    Args:
        unlearners: Callables ``(model, request) -> model``, or specs as on the command line.
        task: Spec of a task.
        poison: Specs of poisons; none for those that the task lists.
        claims: Any of ``"poison"``, ``"accuracy"``, ``"cost"`` and ``"relearning"``.

    Returns:
        The decorator. What it names is looked up when tests are collected; what cannot be found or used is an error of
        the collection.

    Raises:
        UnlearningError: A claim is not known, or a lone spec stands in the place of a sequence.
    """
    for name, given in (("unlearners", unlearners), ("claims", claims)):
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise UnlearningError(f"parametrize_with_audits: {name} is a list with at least one entry, not {given!r}")
    if unknown := [claim for claim in claims if claim not in GATING]:
        raise UnlearningError(f"parametrize_with_audits: the claims are {', '.join(GATING)}; not {unknown[0]!r}")
    poisons = (poison,) if isinstance(poison, str) else tuple(poison)
    return pytest.mark.audits(tuple(unlearners), task, poisons, tuple(claims))


def parametrize(metafunc: pytest.Metafunc, mark: pytest.Mark, settings: Settings) -> None:
    """Give a decorated test its cases.

    Raises:
        CollectError: A method, task or poison cannot be found or used, or a method is another one in every process.
    """
    unlearners, spec, poisons, claims = mark.args
    try:
        methods, task = [_method(each) for each in unlearners], registry.resolve("task", spec)
        cells = registry.cells(methods, [task], poisons, settings.discovery)
    except UnlearningError as error:
        raise pytest.Collector.CollectError("\n".join([str(error), *registry.trace(error.__cause__)])) from None
    if "clause" in metafunc.fixturenames:
        clauses = settings.clauses(methods, task)
        metafunc.parametrize("clause", clauses, ids=map(str, clauses), indirect=True)
        return
    cases = [
        pytest.param(cell, marks=pytest.mark.audit(claim), id=f"{cell.id}-{claim}")
        for cell in cells
        for claim in claims
        if claim != "accuracy" or cell.judges_accuracy
    ]
    metafunc.parametrize("audited", cases, indirect=True)


def _method(unlearner: str | Callable[..., Any]) -> Registered:
    found = registry.method(unlearner)
    if found.identity != registry.method(unlearner).identity:
        raise UnlearningError(
            f"{found.name} is made with objects that are no plain values, so that no other process can know it for the "
            "same: name it by a spec, or make it a dataclass with plain fields"
        )
    return found
