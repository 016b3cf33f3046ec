"""What a run leaves behind in files: the JSON result, the report, and the summary of a step of GitHub Actions."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.report import write_json, write_text
from harness.summary import LIMIT, markdown

if TYPE_CHECKING:
    import pytest

    from harness.page import Picture


def write(config: pytest.Config, document: Mapping[str, Any]) -> None:
    """Write what the options and the environment ask for; called once, in the process that has the results."""
    if config.option.audit_json:
        write_json(Path(config.option.audit_json).expanduser().absolute(), document)
    if config.option.audit_html:
        write_report(document, Path(config.option.audit_html).expanduser().absolute(), config.option.audit_device)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_summary(document, Path(summary))


def write_report(document: Mapping[str, Any], target: Path, device: str = "auto") -> None:
    """Write the report of a result, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    from harness.page import render

    write_text(target, render(document, pictures_of(document, device)))


def append_summary(document: Mapping[str, Any], target: Path) -> None:
    """Append to the summary of a step, which GitHub cuts at 1 MiB; a summary that cannot be written fails no run."""
    try:
        taken = target.stat().st_size if target.exists() else 0
        if text := markdown(document, LIMIT - taken):
            with target.open("a", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        print(f"the summary was not written to {target}: {error}", file=sys.stderr)


def pictures_of(document: Mapping[str, Any], device: str = "auto") -> dict[tuple[str, str], Picture]:
    """Return pictures of what a result's store has planted, by task and poison; whatever cannot be had is left out.

    Nothing is trained or crafted for them, and no store is created.
    """
    settings = document.get("run", {}).get("settings", {})
    judged = [*document.get("audits", ()), *document.get("heuristics", ())]
    places = dict.fromkeys((each["task"], each["poison"]) for each in judged)
    store = settings.get("store")
    if not places or not store or ("://" not in store and not Path(store).is_dir()):
        return {}
    from harness.frontend import open_lab
    from harness.page import Picture
    from harness.pictures import stored_picture

    found = {}
    try:
        lab = open_lab(store, settings.get("data"), device, 0.1, "report")
    except UnlearningError:
        return {}
    for task, poison in places:
        try:
            sheet = stored_picture(lab, task, poison)
        except Exception as error:  # of a plugin, say: a report without a picture is better than none
            print(f"there is no picture of {poison} on {task}: {error}", file=sys.stderr)
            continue
        if sheet is not None:
            content = io.BytesIO()
            sheet.save(content, "PNG", optimize=True)
            found[task, poison] = Picture(content.getvalue(), seed=0)
    return found
