"""What a run prints and writes of its audits: the header, the closing sections, the files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cells import Registered
from harness.judging.drawing import FIXED
from harness.plugin.expectations import as_expected
from harness.plugin.session import Session
from harness.report import github, tables
from harness.report.document import write_json, write_text
from harness.sources import in_tree
from harness.specs import aliased


def header(session: Session) -> list[str]:
    """Return the lines on what is audited, from which distribution, and where the artefacts go."""
    settings = session.settings
    devices = f"devices: {session.devices}   store: {settings.store.in_words()}"
    lines = []
    if settings.controls_only and not session.of_suites:  # tests of the user's own name what they audit
        return [devices, f"seeds: {settings.draw or FIXED}"]
    if settings.controls_only:
        names = ", ".join(control.id for control in settings.unlearners)
        lines.append(f"unlearner: not given (--unlearner=NAME), so the controls are audited: {names}")
    else:
        for method in settings.unlearners:
            fields = ", ".join(f"{name}={value}" for name, value in method.fields.items())
            lines.append(
                f"unlearner: {_alias(method)}{method.name}({fields})  {method.distribution} {method.version}".rstrip()
                + f", source {method.source[:8]}"
                + _from(method)
            )
    looks = ", ".join(map(str, settings.plan.looks))
    for task in settings.tasks:
        poisons = dict.fromkeys(cell.poison.id for cell in settings.cells if cell.task == task)
        lines.append(
            f"task: {task.id}{_from(task)}   poisons: {', '.join(poisons)}   "
            f"seeds: {looks} ({settings.draw or FIXED})   plan: {settings.plan.kind}   "
            f"budget: {100 * settings.budget:g} % of retraining"
            + (f"   discovery: {100 * settings.discovery:g} %" if settings.discovery < 1 else "")
        )
    return [*lines, devices]


def _alias(method: Registered) -> str:
    alias, _ = aliased(method.id)
    return f"{alias} = " if alias else ""


def _from(plugin: Registered) -> str:
    """Return where a plugin is that is not in-tree: modules of one name may stand in several folders."""
    return f", file {plugin.file}" if plugin.file and not in_tree(plugin.file) else ""


def summarise(session: Session, reporter: Any) -> None:
    """Print inconclusive audits in words, the closing tables, and what was expected."""
    settings, results = session.settings, session.results
    audits = list(results.audits.values())
    unclear = [a for a in audits if a["verdict"] == "INCONCLUSIVE" and a["text"] and not as_expected(a)]
    if unclear:
        reporter.section("inconclusive audits")
        for audit in unclear:
            reporter.section(audit["id"].partition("::")[2], sep="_")
            reporter.write_line(audit["text"])
    if results.contract:
        _section(reporter, "unlearning contract", tables.contract_lines(list(results.contract.values())))
    if results.heuristics:
        _section(reporter, "usual metrics", tables.heuristic_lines(results.methods()))
    if audits:
        found, plan = results.methods(), settings.plan
        together = tables.methods_that_pass(found, plan.alpha, plan.kind)
        below = [tables.LEGEND, tables.bad_seeds_left_open(found, plan.kind), together]
        _section(reporter, "unlearning audits", [*tables.too_weak(found), *tables.table(found), *filter(None, below)])
    if missing := session.not_judged():
        named = [*missing[:10], *([f"... and {len(missing) - 10} more"] if len(missing) > 10 else [])]
        _section(reporter, "not judged", named)
    if not settings.judging or not session.asked:
        return
    stale, elsewhere = settings.unmatched(audits)
    if settings.expectations is not None:
        reporter.section("expected verdicts")
        for line, markup in settings.expectations.lines(audits, stale, elsewhere):
            reporter.write_line(line, **markup)
    if github.wanted():
        alone = not session.config.pluginmanager.hasplugin(github.ANNOTATE_FAILURES)
        contract, methods = results.contract.values(), settings.unlearners
        broken = [{**each, "red": True} for each in results.heuristics.values() if each["verdict"] == "ERROR"]
        for line in github.failing([*audits, *broken], contract, results.crashes, stale, methods, failures=alone):
            reporter.write_line(line)


def _section(reporter: Any, title: str, lines: list[str]) -> None:
    reporter.section(title)
    for line in lines:
        reporter.write_line(line)


def conclude(session: Session, exitstatus: int | pytest.ExitCode) -> int | pytest.ExitCode:
    """Write the files that the run is to leave, and return its exit status: gaps and stale expectations turn it red."""
    settings, results = session.settings, session.results
    green = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    if session.not_judged() and exitstatus in green:
        exitstatus = pytest.ExitCode.TESTS_FAILED
    if settings.expectations is not None:
        stale, _ = settings.unmatched(results.audits.values())
        if settings.expectations.updating:
            write_text(settings.expectations.path, settings.expectations.updated(results.audits.values(), stale))
        elif stale and exitstatus in green:
            exitstatus = pytest.ExitCode.TESTS_FAILED
    if session.asked:
        asked = settings.asked if session.of_suites else {}
        document = results.document(session.config.invocation_params.args, settings, session.devices, asked)
        try:
            _write(session, document)
        except OSError as error:  # such as a full disk: the verdicts are printed all the same
            print(f"the results cannot be written: {error}", file=sys.stderr)
            exitstatus = pytest.ExitCode.TESTS_FAILED if exitstatus in green else exitstatus
    return exitstatus


def _write(session: Session, document: Mapping[str, Any]) -> None:
    """Write what the options and the environment ask for."""
    option = session.settings.option
    if option.audit_json:
        write_json(Path(option.audit_json).expanduser().absolute(), document)
    if option.audit_html:
        from harness.report.page import write_report

        write_report(document, Path(option.audit_html).expanduser().absolute(), option.audit_device)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        github.append_summary(document, Path(summary))
