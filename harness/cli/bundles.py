"""``submit`` and ``verify``: a result that others can check, and the check."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _pytest_unlearning import OPTIONS
from harness import registry
from harness.api import UnlearningError
from harness.bundles import bundle as bundles
from harness.bundles.made import Made, machine, others_of, sources_of, without_places
from harness.bundles.repeating import differences, of_others, readings, refuted, slower, unlike
from harness.bundles.signing import Untrue, sign
from harness.cli.gate import PLAN
from harness.cli.store import in_bytes
from harness.cli.suite import INTERRUPTED, options_in, repeated, run_suite
from harness.isolated import method as isolation
from harness.judging.claims import POISON
from harness.judging.drawing import DRAWN
from harness.report.changes import MEANING
from harness.report.document import not_judged, read, versions, write_json
from harness.sources import ROOT
from harness.store.artefacts import Store
from harness.store.files import Files
from harness.store.inventory import Inventory, Record, remove
from harness.store.packing import pack, unpack

#: Versions that decide where a training ends.
DECISIVE = ("pytest-unlearning", "torch", "numpy")
#: Seeds that are trained anew, and the word for all of them.
ANEW, ALL = 2, "all"
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
    _of_audits(parser)
    parser.add_argument(
        "--store", required=True, metavar="PATH_OR_URL", help="A store for this bundle: all that it holds in the "
        "end goes into the bundle. Name it again to go on after an interruption",
    )  # fmt: skip
    parser.add_argument(
        "--without-models", action="store_true", help="Leave the models out: a file of some 20 kB, for a table of many "
        "bundles. Whoever verifies it must make everything anew. --store may be any store",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE.zip", type=Path, help="The bundle")
    parser.add_argument("--sign", metavar="KEY", type=Path, help="Key of OpenSSH, such as ~/.ssh/id_ed25519")
    parser.set_defaults(run=_submit)


def add_verify(subparsers: Any) -> None:
    """Add ``verify BUNDLE --unlearner=SPEC``."""
    parser = subparsers.add_parser(
        "verify", help="Check a bundle: its signature, its verdicts, and a random part of it anew",
        description="Check that a bundle is about what you name, in three steps: it is what was signed; its models "
        "give its verdicts; and a few random seeds, made anew, give the same numbers. Name the method, the task, "
        "the poisons and the settings as you would for submit: none is taken from the bundle. Exit with 1 if the "
        "bundle is not true, and with 2 if it cannot be checked here.",
    )  # fmt: skip
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.zip", help="What pytest-unlearning submit wrote")
    _of_audits(parser)
    parser.add_argument(
        "--signers", type=Path, metavar="FILE", help="Who may sign: a name and a public key of OpenSSH on each line"
    )
    parser.add_argument(
        "--anew", type=_anew, default=ANEW, metavar="N|all", help="How many random seeds to make anew. With 'all', "
        "no model of the bundle is used; another kind of machine needs this. Default: %(default)s",
    )  # fmt: skip
    parser.set_defaults(run=_verify)


def _of_audits(parser: argparse.ArgumentParser) -> None:
    noun = "NAME[:FIELD=VALUE,...]"
    parser.add_argument("--unlearner", required=True, metavar=noun, help="Method that is audited")
    parser.add_argument("--task", metavar=noun, help="Task that is learned")
    parser.add_argument("--poison", action="append", default=[], metavar=noun, help="Poison. Repeatable")
    parser.add_argument("--seeds-from", metavar="env:NAME|FILE", help="Salt with which seeds are drawn")
    parser.add_argument("--data", metavar="DIR", help="Directory of data sets")
    parser.add_argument("--isolated", action="store_true", help="Run the method in a process of its own")
    parser.add_argument("--workers", metavar="N", help="Worker processes (pytest's -n)")
    parser.add_argument("pytest", nargs="*", metavar="-- OPTION=VALUE", help="Further options for pytest")


def _anew(text: str) -> int | str:
    if text == ALL:
        return ALL
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number of seeds, at least 1, or {ALL}, not {text!r}")
    return int(text)


def _submit(options: argparse.Namespace) -> int:
    out = options.out.absolute()
    if out.suffix != ".zip":
        raise UnlearningError(f"--out: a bundle is a zip; name it {options.out}.zip")
    if not out.parent.is_dir():
        raise UnlearningError(f"--out: the directory {options.out.parent} is missing; make it first")
    if options.sign:
        sign(b"", options.sign)  # before the audits, not after
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as folder:
        result, packed = Path(folder) / bundles.RESULT, Path(folder) / bundles.STORE
        document = _audited(options, options.store, result)
        if broken := [each["line"] for each in document["contract"] if each["kept"] is False]:
            raise UnlearningError(f"the method breaks the contract ({', '.join(broken)}); mend it before you submit it")
        if missing := not_judged(document, "audits") or not_judged(document, "contract"):
            raise UnlearningError(f"there is nothing to submit yet: {missing}")
        if len(document["unlearners"]) > 1:
            raise UnlearningError("a bundle is about one method; write one bundle for each")
        places = {Path(options.store).absolute(): "store", Path(folder): ".", Path.cwd(): ".", ROOT: "."}
        write_json(result, without_places(document, places))
        store = Store(options.store, run="").files
        device = _device(Inventory.of(store).records, document)
        records = 0 if options.without_models else pack(store, packed)
        made = Made(sources_of(document), device, machine(device))
        bundles.write(out, result, None if options.without_models else packed, made, options.sign)
    kept = "without models" if options.without_models else f"{records} artefacts"
    print(f"\nwrote {options.out}: {len(document['audits'])} audits, {kept}, {in_bytes(out.stat().st_size)}", end="")
    print("" if options.sign else "; not signed: --sign KEY signs it")
    return 0


def _device(records: Iterable[Record], document: Mapping[str, Any]) -> str:
    """Return the kind of device that the methods of a result were run on; ``"auto"`` if it is not one."""
    of = {str(each["source_sha256"]) for each in document["unlearners"]}
    models = (record.of for record in records if record.kind == "model" and "method" in record.of)
    kinds = {str(model.get("device")) for model in models if model["method"].get("source") in of}
    return kinds.pop() if len(kinds) == 1 else "auto"


def _verify(options: argparse.Namespace) -> int:
    try:
        _verified(options)
    except Untrue as error:
        print(f"verify: {options.bundle} is not true: {error}", flush=True)
        return 1
    print(f"verify: {options.bundle} holds", flush=True)
    return 0


def _verified(options: argparse.Namespace) -> None:
    """Check a bundle, and say how far it holds.

    Raises:
        Untrue: It is not what it says.
        UnlearningError: It cannot be checked here.
    """
    with tempfile.TemporaryDirectory(prefix="unlearning-verify-") as place:
        folder = Path(place)
        bundle = bundles.opened(options.bundle, folder, options.signers)
        store = Store(folder / "store", run="").files
        if bundle.store is not None:
            try:
                unpack(bundle.store, store)
            except UnlearningError as error:
                raise Untrue(str(error)) from None
        _require_here(bundle.document, store, options)
        _require_settings(bundle.document, _named(options))  # before it trains what is not in the bundle
        by = f"signed by {bundle.signed_by}" if bundle.signed_by else "its signature was not checked"
        print(f"1 of 3: it is what its manifest says; {by if bundle.signed else 'it is not signed'}", flush=True)

        if bundle.store is None:
            print("2 of 3: it carries no models, so everything must be made anew, and is now", flush=True)
        else:
            _require_models(bundle, _again(bundle, options, folder))
        audits = bundle.document["audits"]
        poison, drawn = _seeds(audit for audit in audits if audit["claim"] == POISON.name), options.anew
        if bundle.store is None or drawn == ALL:
            _forget(store, _seeds(audits))
            _require_whole(bundle, _again(bundle, options, folder))
        else:  # some of the seeds that the verdict on the poison rests on
            anew = sorted(random.SystemRandom().sample(poison, min(drawn, len(poison))))
            _forget(store, anew)
            _require_part(bundle, _again(bundle, options, folder), anew)


def _again(bundle: bundles.Bundle, options: argparse.Namespace, folder: Path) -> Mapping[str, Any]:
    """Run the suites on the store of a bundle, and return the result.

    Raises:
        UnlearningError: They did not finish, or judge by other settings than the bundle was judged by.
    """
    quietly = [*QUIETLY, f"--audit-device={bundle.made.device}"]
    found = _audited(options, folder / "store", folder / "again.json", quietly)
    _require_settings(bundle.document, found["run"]["settings"])
    return found


def _require_models(bundle: bundles.Bundle, again: Mapping[str, Any]) -> None:
    """Refuse a bundle whose models do not give its result.

    Raises:
        Untrue, UnlearningError: As `_require_none`.
    """
    other = others_of(bundle.made.sources, sources_of(again))
    trained = sorted({arm for trial in again["trials"] for arm in trial["cost"]["built"]})
    lacks = [f"{arm} had to be trained" for arm in trained]
    _require_none("it does not hold all that its result rests on", lacks, other)
    found = differences(bundle.document, again, worded=not other)
    _require_none("its models do not give its result", found, other)
    print(f"2 of 3: its models give its result, {len(again['audits'])} audits", flush=True)


def _require_part(bundle: bundles.Bundle, remade: Mapping[str, Any], anew: Sequence[int]) -> None:
    """Refuse a bundle of which a part does not come out again.

    Raises:
        Untrue, UnlearningError: As `_require_none`; or this machine does not compute as the one that made it.
    """
    made = f"seed{'s' * (len(anew) > 1)} {' and '.join(map(str, anew))} made anew"
    numbers, bad = _unlike(bundle.document, remade)
    if any(map(of_others, bad)):
        _print(bad)
        raise UnlearningError(
            f"with {made}, poisoned and retrained models differ from those of the bundle: this machine does not "
            "compute as the one that made it, or they were changed; --anew=all makes everything anew, and compares "
            "the verdicts"
        )
    other = others_of(bundle.made.sources, sources_of(remade))
    _require_none(f"with {made}, the method does not do what it did", bad, other)
    print(f"3 of 3: {made}, everything read anew: {numbers} numbers, all equal", flush=True)


def _require_whole(bundle: bundles.Bundle, remade: Mapping[str, Any]) -> None:
    """Refuse a bundle that does not come out again when everything is made anew.

    Raises:
        Untrue, UnlearningError: As `_require_none`; or a budget is broken by CPU time alone.
    """
    other = others_of(bundle.made.sources, sources_of(remade))
    _, bad = _unlike(bundle.document, remade)
    count = f"3 of 3: everything made anew, {len(remade['audits'])} audits:"
    alike = not any(map(of_others, bad))
    if alike:  # a machine that trains the same models finds the same numbers
        found = differences(bundle.document, remade, worded=not other, timed=False)
        _require_none("made anew, its result is another", found, other)
    else:
        _require_none("made anew, it does not hold", refuted(bundle.document, remade), other)
    if late := slower(bundle.document, remade):
        _print(late)
        raise UnlearningError(
            "all else holds, but here the method takes more CPU time than its budget allows; that depends on what "
            "else the machine does: verify it again on a quiet one"
        )
    if alike:
        print(f"{count} all numbers are equal", flush=True)
        return
    print(
        f"{count} no verdict is worse, and estimates agree within their intervals. More cannot be said: this machine "
        "does not compute as the one that made it, or its numbers were changed", flush=True,
    )  # fmt: skip


def _unlike(document: Mapping[str, Any], remade: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return how many readings a result has, and which were not found again, a sentence each."""
    seeds = _seeds(document["audits"])
    claimed = readings(document, seeds)
    return len(claimed), unlike(claimed, readings(remade, seeds))


def _seeds(audits: Iterable[Mapping[str, Any]]) -> list[int]:
    return sorted({seed for audit in audits for seed in audit["seeds"]})


def _require_none(what: str, found: Sequence[str], other: Sequence[str]) -> None:
    """Refuse a bundle of which something was found.

    Args:
        what: What that would mean.
        found: A sentence for each.
        other: The sources that are others here than those that it was made by.

    Raises:
        Untrue: Something was.
        UnlearningError: Something was, and it may come from a source that is another one here.
    """
    if not found:
        return
    _print(found)
    if other:
        raise UnlearningError(
            f"{what}; but it was made by another source of {', '.join(other)}, which may be why: install what it was "
            "made with, and verify it again"
        )
    raise Untrue(what)


def _print(lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        print(f"  {line}")
    if len(lines) > SHOWN:
        print(f"  and {len(lines) - SHOWN} more")


def _audited(
    options: argparse.Namespace, store: str | Path, result: Path, further: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Run the suites on a store, and return the result.

    Raises:
        UnlearningError: pytest did not finish.
    """
    arguments = [*_arguments(options, further), f"--audit-json={result}"]
    code = run_suite(["test_suites"], argparse.Namespace(store=store, workers=options.workers), arguments)
    if code == INTERRUPTED:
        raise UnlearningError("the run was interrupted")
    if code not in (0, 1) or not result.exists():
        raise UnlearningError(f"pytest did not finish (exit code {code}); what it printed shows why")
    return read(result)


def _arguments(options: argparse.Namespace, further: Sequence[str] = ()) -> list[str]:
    """Return the options of pytest that say what is audited, and how."""
    arguments = [f"--unlearner={options.unlearner}", f"--audit-plan={PLAN}"]
    arguments += repeated("--task", [options.task] if options.task else [])
    arguments += repeated("--poison", options.poison)
    arguments += [f"--audit-seeds-from={options.seeds_from}"] if options.seeds_from else []
    arguments += [f"--audit-data={options.data}"] if options.data else []
    arguments += ["--audit-isolated"] if options.isolated else []
    return [*arguments, *further, *options.pytest]


def _require_here(document: Mapping[str, Any], store: Files, options: argparse.Namespace) -> None:
    """Refuse what cannot be checked here.

    Raises:
        UnlearningError: The versions or the source are others, or the salt is missing.
    """
    from harness.trials.keys import stale  # here, because it imports torch

    theirs, drawn = document["run"]["versions"], document["run"]["settings"]["seeds_from"].startswith(DRAWN)
    source = {str(each["name"]): str(each["source_sha256"]) for each in document["unlearners"]}
    ours = versions()
    if other := [f"{name} {theirs.get(name)}" for name in DECISIVE if theirs.get(name) != ours.get(name)]:
        here = ", ".join(f"{name} {ours.get(name)}" for name in DECISIVE)
        raise UnlearningError(f"it was made with {', '.join(other)}, and here is {here}; install those versions first")
    if drawn and not options.seeds_from:
        raise UnlearningError("its seeds were drawn; name the salt that they were drawn by, with --seeds-from")
    if any(stale(record) for record in Inventory.of(store).records if record.kind == "model"):
        raise UnlearningError(
            "its models were made by another build of torch, or by another source of this package, of the task or of "
            "the poison than those installed here; install what it was made with first"
        )
    method = (isolation.method if options.isolated else registry.method)(options.unlearner)
    if source.get(method.id) != method.source:
        named = ", ".join(f"{name} (source {digest[:8]})" for name, digest in source.items())
        here = f"and {method.id} has source {method.source[:8]} here" if method.id in source else f"not {method.id}"
        raise UnlearningError(f"it is about {named}, {here}")


def _named(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the options name; the others are known once pytest has read its own configuration."""
    try:
        found = vars(options_in(_arguments(options), argparse.SUPPRESS))
    except argparse.ArgumentError:  # pytest refuses it, in its own words
        return {}
    return {each.key: found[each.dest] for each in OPTIONS if each.dest in found and each.key != "seeds_from"}


def _require_settings(document: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse a bundle that was judged by other settings than those that were asked for.

    Raises:
        UnlearningError: It was.
    """
    theirs = document["run"]["settings"]
    shared = [name for name in MEANING if name in ours]
    other = [f"{name} {theirs.get(name)} (not {ours[name]})" for name in shared if theirs.get(name) != ours[name]]
    if other:
        raise UnlearningError(
            f"it was judged with {', '.join(other)}; if that is what you accept, add the options behind --, such as "
            "-- --audit-plan=quick"
        )


def _forget(store: Files, seeds: Collection[int]) -> None:
    """Remove from a store all that was read, all surrogates, and all that was planted or trained with some seeds."""
    gone = [
        record.entry
        for record in Inventory.of(store).records
        if record.kind not in ("planted", "told", "model")
        or "surrogate" in record.of
        or any(record.of.get("seed") == seed for seed in seeds)
    ]
    list(remove(store, gone))
