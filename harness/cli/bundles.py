"""``submit`` and ``verify``: a result that others can check, and the check."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.bundles import bundle as bundles
from harness.bundles.repeating import disagreements, judged_otherwise, pairs
from harness.cli.suite import repeated, run_suite
from harness.judging.drawing import DRAWN
from harness.report.document import not_judged, read, versions
from harness.store.artefacts import Store
from harness.store.files import Files
from harness.store.inventory import Inventory, remove
from harness.store.packing import pack, unpack

#: What a bundle is judged by, unless it is told otherwise: as a gate.
PLAN = "reliable"
#: Settings of a result that its repetition takes over.
SETTINGS = ("plan", "seeds", "alpha", "futility", "tolerance", "budget", "discovery", "timeout")
#: Versions that decide where a training ends.
DECISIVE = ("pytest-unlearning", "torch", "numpy")
#: Seeds that are trained anew.
ANEW = 2
#: A verification is about what agrees; what FAILs is in the table.
QUIETLY = ("-q", "--no-header", "--tb=no", "-rN")
#: How many differences are printed.
SHOWN = 5


def add_submit(subparsers: Any) -> None:
    """Add ``submit --unlearner=SPEC --store DIR --out FILE``."""
    parser = subparsers.add_parser(
        "submit", help="Audit a method, and write a signed bundle that others can verify",
        description="Audit one method on one task, contract and controls included, and write the result with all "
        "models that it rests on to one file, a bundle. Others check it with pytest-unlearning verify. A method that "
        "FAILs can be submitted; a run that left something out cannot.",
    )  # fmt: skip
    noun = "NAME[:FIELD=VALUE,...]"
    parser.add_argument("--unlearner", required=True, metavar=noun, help="Method to audit")
    parser.add_argument("--task", metavar=noun, help="Task to learn")
    parser.add_argument("--poison", action="append", default=[], metavar=noun, help="Poison to plant. Repeatable")
    parser.add_argument(
        "--store", required=True, metavar="DIR", type=Path, help="A store for this bundle: all that it holds in the "
        "end goes into the bundle. Name it again to go on after an interruption",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE.zip", type=Path, help="The bundle")
    parser.add_argument("--sign", metavar="KEY", type=Path, help="Key of OpenSSH, such as ~/.ssh/id_ed25519")
    _of_pytest(parser)
    parser.set_defaults(run=_submit)


def add_verify(subparsers: Any) -> None:
    """Add ``verify BUNDLE``."""
    parser = subparsers.add_parser(
        "verify", help="Check a bundle: its signature, its verdicts, and a random part of it anew",
        description="Check a bundle in three steps. First, that it is what was signed. Second, that its models give "
        "its verdicts. Third, all readings are taken anew, and the models of a few random seeds are trained and "
        "unlearned anew. This runs the method: for code that you do not trust, add --isolated. Exit with 1 if the "
        "result cannot be repeated, and with 2 if this machine cannot check it.",
    )  # fmt: skip
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.zip", help="What pytest-unlearning submit wrote")
    parser.add_argument(
        "--signers", type=Path, metavar="FILE", help="Who may sign: a name and a public key of OpenSSH on each line"
    )
    parser.add_argument(
        "--anew", type=int, default=ANEW, metavar="N", help="Seeds to train anew, at least 1. Default: %(default)s"
    )
    _of_pytest(parser)
    parser.set_defaults(run=_verify)


def _of_pytest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds-from", metavar="env:NAME|FILE", help="Salt that the seeds are drawn by")
    parser.add_argument("--data", metavar="DIR", help="Directory of data sets")
    parser.add_argument("--isolated", action="store_true", help="Run the method in a process of its own")
    parser.add_argument("--workers", metavar="N", help="Worker processes (pytest's -n)")
    parser.add_argument("pytest", nargs="*", metavar="-- OPTION=VALUE", help="Further options for pytest")


def _submit(options: argparse.Namespace) -> int:
    if options.out.suffix != ".zip":
        raise UnlearningError(f"--out: a bundle is a zip; name it {options.out}.zip")
    if not options.out.absolute().parent.is_dir():
        raise UnlearningError(f"--out: the directory {options.out.parent} is missing; make it first")
    with tempfile.TemporaryDirectory(prefix="unlearning-submit-") as folder:
        result, packed = Path(folder) / bundles.RESULT, Path(folder) / bundles.STORE
        arguments = [f"--unlearner={options.unlearner}", f"--audit-plan={PLAN}"]
        arguments += repeated("--task", [options.task] if options.task else [])
        arguments += repeated("--poison", options.poison)
        document = _audited(options, options.store, result, [*arguments, *options.pytest])
        if broken := [each["line"] for each in document["contract"] if each["kept"] is False]:
            raise UnlearningError(f"the method breaks the contract ({', '.join(broken)}); mend it before you submit it")
        if missing := not_judged(document, "audits") or not_judged(document, "contract"):
            raise UnlearningError(f"there is nothing to submit yet: {missing}")
        if len({each["name"] for each in document["unlearners"]}) > 1 or len(_tasks(document)) > 1:
            raise UnlearningError("a bundle is about one method on one task; write one bundle for each")
        records = pack(Store(options.store, run="").files, packed)
        bundles.write(options.out, result, packed, options.sign)
    size = options.out.stat().st_size / 1e6
    print(f"\nwrote {options.out}: {len(document['audits'])} audits, {records} artefacts, {size:.1f} MB", end="")
    print("" if options.sign else "; not signed: --sign KEY signs it")
    return 0


def _verify(options: argparse.Namespace) -> int:
    if options.anew < 1:
        raise UnlearningError(f"--anew: takes at least 1 seed, not {options.anew}")
    with tempfile.TemporaryDirectory(prefix="unlearning-verify-") as place:
        folder = Path(place)
        try:
            opened = bundles.opened(options.bundle, folder, options.signers)
            store = Store(folder / "store", run="").files
            unpack(opened.store, store)
        except UnlearningError as error:
            return _end(options, str(error))
        document = opened.document
        _require_here(document, options)
        by = f"signed by {opened.signed_by}" if opened.signed_by else "its signature was not checked"
        print(f"1 of 3: it is what its manifest says; {by if opened.signed else 'it is not signed'}", flush=True)

        arguments = [*_arguments(document), *QUIETLY, *options.pytest]
        again = _audited(options, folder / "store", folder / "again.json", arguments)
        if trained := sorted({arm for trial in again["trials"] for arm in trial["cost"]["built"]}):
            return _end(options, f"it does not hold the models that its result rests on ({', '.join(trained)})")
        if different := judged_otherwise(document, again):
            return _end(options, "its models do not give its verdicts", different)
        print(f"2 of 3: its models give its verdicts, {len(again['audits'])} of {len(again['audits'])}", flush=True)

        seeds = sorted({seed for audit in document["audits"] for seed in audit["seeds"]})
        anew = sorted(random.SystemRandom().sample(seeds, min(options.anew, len(seeds))))
        _forget(store, anew)
        anew_too = _audited(options, folder / "store", folder / "anew.json", arguments)
        found = pairs(document, anew_too)
        alike, bad = disagreements(found, anew)
        named = f"seed{'s' * (len(anew) > 1)} {' and '.join(map(str, anew))} trained anew"
        if bad or not any(pair.seed in anew for pair in found):
            return _end(options, f"{named}, {len(bad)} of {len(found)} readings differ", [str(pair) for pair in bad])
        how = "equal" if alike else "as near as seeds are to each other; this machine does not compute as that one did"
        print(f"3 of 3: {named}, everything read anew: {len(found)} readings, {how}")
    return _end(options, "")


def _end(options: argparse.Namespace, wrong: str, details: Sequence[str] = ()) -> int:
    for line in details[:SHOWN]:
        print(f"  {line}")
    if len(details) > SHOWN:
        print(f"  and {len(details) - SHOWN} more")
    print(f"verify: {options.bundle} {'cannot be believed: ' + wrong if wrong else 'holds'}", flush=True)
    return int(bool(wrong))


def _audited(options: argparse.Namespace, store: Path, result: Path, arguments: Sequence[str]) -> Mapping[str, Any]:
    """Run the suites on a store, and return the result.

    Raises:
        UnlearningError: pytest did not finish.
    """
    further = [f"--audit-json={result}"]
    further += [f"--audit-seeds-from={options.seeds_from}"] if options.seeds_from else []
    further += [f"--audit-data={options.data}"] if options.data else []
    further += ["--audit-isolated"] if options.isolated else []
    of_suite = argparse.Namespace(store=store, workers=options.workers)
    code = run_suite(["test_suites"], of_suite, [*arguments, *further])
    if code not in (0, 1) or not result.exists():
        raise UnlearningError(f"pytest did not finish (exit code {code}); what it printed shows why")
    return read(result)


def _arguments(document: Mapping[str, Any]) -> list[str]:
    """Return the options for pytest that repeat a result. Nothing else of a stranger's command line is taken over."""
    audits, settings = document["audits"], document["run"]["settings"]
    return [
        *repeated("--unlearner", dict.fromkeys(audit["unlearner"] for audit in audits)),
        *repeated("--task", _tasks(document)),
        *repeated("--poison", dict.fromkeys(audit["poison"] for audit in audits)),
        *(f"--audit-{name}={settings[name]}" for name in SETTINGS if settings[name] is not None),
    ]


def _tasks(document: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(audit["task"] for audit in document["audits"]))


def _require_here(document: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Refuse what cannot be checked here.

    Raises:
        UnlearningError: The versions are others, or the salt is missing.
    """
    theirs, ours = document["run"]["versions"], versions()
    if other := [f"{name} {theirs.get(name)}" for name in DECISIVE if theirs.get(name) != ours.get(name)]:
        here = ", ".join(f"{name} {ours.get(name)}" for name in DECISIVE)
        raise UnlearningError(f"it was made with {', '.join(other)}, and here is {here}; install those versions first")
    if document["run"]["settings"]["seeds_from"].startswith(DRAWN) and not options.seeds_from:
        raise UnlearningError("its seeds were drawn; name the salt that they were drawn by, with --seeds-from")


def _forget(store: Files, seeds: Collection[int]) -> None:
    """Remove from a store all that was read, and all that was planted or trained with some seeds."""
    found = Inventory.of(store)
    gone = [
        record.entry
        for record in found.records
        if record.kind not in ("planted", "told", "model")
        or {record.of.get("seed"), record.of.get("surrogate")} & set(seeds)
    ]
    for _ in remove(store, gone):
        pass
