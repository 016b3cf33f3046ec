"""What a run says to GitHub: annotations of failing audits, of errors and of crashed workers.

They are lines on standard output (https://docs.github.com/actions/reference/workflow-commands-for-github-actions), and
are printed where ``GITHUB_ACTIONS`` is set. An annotation stands at the method's source where that is part of the
workspace, and at no file where not: the audits' own file is no part of who reads it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.api import Registered
from harness.expectations import Expectation

ANNOTATE_FAILURES = "pytest_github_actions_annotate_failures"  # the plugin that annotates what fails when called


def wanted() -> bool:
    """Say whether GitHub reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def failing(
    audits: Iterable[Mapping[str, Any]],
    contract: Iterable[Mapping[str, Any]],
    crashes: Iterable[str],
    stale: Iterable[Expectation],
    methods: Iterable[Registered],
    failures: bool = True,
) -> list[str]:
    """Return a line per audit that is red, broken line of a contract, crash of a worker, and stale expectation.

    Args:
        audits: What audits reported, with ``"red"`` for those that fail the run.
        contract: What the lines of contracts reported.
        crashes: What was said of workers that crashed.
        stale: Expectations that no audit can meet.
        methods: Who is audited.
        failures: Whether failed audits and broken lines are annotated; not where another plugin does it.
    """
    places = {method.id: _place(method) for method in methods}
    lines = []
    for audit in audits:
        is_error = audit["verdict"] == "ERROR"
        if audit["red"] and (failures or is_error):
            title = f"{audit['unlearner']} on {audit['task']}, {audit['poison']}: {audit['claim']} {audit['verdict']}"
            message = audit.get("text") or audit.get("reason") or audit["verdict"]
            lines.append(command("error", title, message, places.get(audit["unlearner"], {})))
    for each in contract:
        if each["kept"] is False and failures:
            title = f"{each['unlearner']}: contract, {each['line']}"
            lines.append(command("error", title, each["sentence"], places.get(each["unlearner"], {})))
    lines += [command("error", "an expectation matches no audit", f"line {old.line}: {old}") for old in stale]
    return lines + [command("error", "a worker crashed", crash) for crash in crashes]


def command(kind: str, title: str, message: str, place: Mapping[str, Any] | None = None) -> str:
    """Return a workflow command: ``::error file=…,line=…,title=…::message``, escaped as GitHub wants it."""
    properties = {**(place or {}), "title": title}
    text = ",".join(f"{name}={_escape(str(value), ':,')}" for name, value in properties.items())
    return f"::{kind} {text}::{_escape(message)}"


def _escape(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def _place(method: Registered) -> dict[str, Any]:
    """Return the file of a method relative to the workspace, and its line; nothing where it is no part of that."""
    value = getattr(method.value, "func", method.value)
    owner = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    workspace = Path(os.environ.get("GITHUB_WORKSPACE", Path.cwd())).resolve()
    try:
        file, line = Path(inspect.getfile(owner)).resolve(), inspect.getsourcelines(owner)[1]
    except (OSError, TypeError):
        return {}
    return {"file": file.relative_to(workspace).as_posix(), "line": line} if file.is_relative_to(workspace) else {}
