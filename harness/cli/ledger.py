"""The ledger of a gate: a file with one line of JSON for every submission that was judged.

A method that is submitted twenty times is judged on twenty draws of seeds, if anything of it changed in between, and
each draw passes it wrongly with a probability of up to alpha. The ledger shows the owner of a gate how often that was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.api import UnlearningError
from harness.judging.drawing import FIXED
from harness.report.document import grouped, not_judged, worst_of
from harness.specs import aliased, split

#: One submission, as on its line.
Submission = Mapping[str, Any]

#: What every line has, and of which type.
KEYS: Mapping[str, type | tuple[type, ...]] = {
    "date": str,
    "method": str,
    "source_sha256": str,
    "fields": dict,
    "tasks": list,
    "poisons": list,
    "settings": dict,
    "seeds": str,
    "alpha": (int, float),
    "verdict": str,
}
#: The settings of a run that make its audits others.
SETTINGS = ("seeds", "plan", "futility", "tolerance", "budget", "discovery")


def read(path: Path) -> list[Submission]:
    """Return the submissions in a ledger, the oldest first; none if there is no file yet.

    Raises:
        UnlearningError: The file cannot be read, its directory is missing, or a line is not a submission.
    """
    if not path.absolute().parent.is_dir():
        raise UnlearningError(f"the directory of the ledger {path} is missing; make it first")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UnlearningError(f"the ledger {path} cannot be read: {error}") from None
    found: list[Submission] = []
    for number, line in enumerate(lines, start=1):
        try:
            submission = json.loads(line)
        except ValueError:
            submission = None
        if not isinstance(submission, dict) or not all(isinstance(submission.get(k), t) for k, t in KEYS.items()):
            raise UnlearningError(
                f"line {number} of the ledger {path} is not a submission; restore it from its history, or remove it"
            )
        found.append(submission)
    return found


def append(path: Path, submissions: Sequence[Submission]) -> None:
    """Append submissions to a ledger in one write, under a lock; nothing that stands there is touched.

    Raises:
        UnlearningError: The file cannot be written.
    """
    text = "".join(json.dumps(each, sort_keys=True) + "\n" for each in submissions)
    try:
        with FileLock(path.with_name(f".{path.name}.lock")), open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that a full disk or a person broke off stays one line
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnlearningError(f"the ledger {path} cannot be written: {error}") from None


def submissions_in(document: Mapping[str, Any]) -> list[Submission]:
    """Return what a result says was submitted: an entry for each method of which an audit ended.

    Its verdict is the worst of its audits; ``"NOT JUDGED"`` for a PASS of a run that left out audits.
    """
    settings = document["run"]["settings"]
    made_of = {each["name"]: each for each in document["unlearners"]}
    left_out = bool(not_judged(document, "audits"))
    found: list[Submission] = []
    for (method,), audits in grouped(document["audits"], "unlearner").items():
        verdict = worst_of(audits)
        found.append(
            {
                "date": document["run"]["started"],
                "method": aliased(method)[1],  # whatever it is called, it is one submission
                "source_sha256": made_of[method]["source_sha256"],
                "fields": made_of[method]["fields"],
                "tasks": sorted({audit["task"] for audit in audits}),
                "poisons": sorted({audit["poison"] for audit in audits}),
                "settings": {name: settings[name] for name in SETTINGS},
                "seeds": settings["seeds_from"],
                "alpha": settings["alpha"],
                "verdict": "NOT JUDGED" if verdict == "PASS" and left_out else verdict,
            }
        )
    return found


def name_of(submission: Submission) -> str:
    """Return the name of a submitted method, without its fields: all settings of one method share it."""
    return split(submission["method"])[0]


def in_words(path: Path, submissions: Sequence[Submission]) -> list[str]:
    """Return a sentence on each of the submissions that stand last in a ledger, and one on the whole ledger."""
    everything = read(path)
    earlier = list(everything)
    for each in submissions:
        earlier.remove(each)
    sentences = []
    for each in submissions:
        name = name_of(each)
        own = [one for one in [*earlier, each] if name_of(one) == name]
        said = f"submission {len(own)} under the name {name}: {_spent(own)}"
        if each["seeds"] == FIXED:
            said += "; this one is on the fixed list, which its author may have tuned on"
        elif any(_same(each, one) for one in earlier):
            said += "; this one repeats an earlier submission, and spends nothing"
        sentences.append(said)
        earlier.append(each)
    names = len({name_of(one) for one in everything})
    whole = f"{len(everything)} submission{'s' * (len(everything) > 1)} under {names} name{'s' * (names > 1)}"
    return [*sentences, f"the whole ledger: {whole}, {_spent(everything)}"]


def _spent(submissions: Sequence[Submission]) -> str:
    """Return how many different draws there were, and the sum of their alphas; repeats and the fixed list aside."""
    different: list[Submission] = []
    for each in submissions:
        if each["seeds"] != FIXED and not any(_same(each, one) for one in different):
            different.append(each)
    alpha = sum(each["alpha"] for each in different)
    return f"{len(different)} different on drawn seeds, alpha spent {alpha:g}"


def _same(one: Submission, other: Submission) -> bool:
    """Say whether two submissions differ in nothing but their date and verdict."""
    return all(one[key] == other[key] for key in KEYS if key not in ("date", "verdict"))
