"""``canaries``: plant canaries into a source before training, and judge one model after the source was removed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.canaries import Secret, candidates, judge, plant
from harness.report.document import finite_tree, versions, write_text
from harness.report.rankings import ranking_file

DATA = "a .csv, .tsv or .jsonl file, a folder of pictures in class folders, or a directory that datasets saved"


def add_canaries(subparsers: Any) -> None:
    """Add ``canaries plant``, ``canaries candidates`` and ``canaries judge``."""
    parser = subparsers.add_parser(
        "canaries",
        help="Canaries: is a source that was removed still in one deployed model?",
        description="Plant canaries into one source before training, each in or out by a fair coin. After the source "
        "was removed, test whether the model still knows which were in. This needs one model and no retraining. It can "
        "prove that something is left, never that nothing is.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_plant(actions)
    _add_candidates(actions)
    _add_judge(actions)


def _add_plant(actions: Any) -> None:
    text = "Write the data with canaries, and the secret list of all canaries"
    action = actions.add_parser("plant", help=text, description=text + ". Nothing is overwritten.")
    action.add_argument("data", type=Path, metavar="DATA", help=f"The data: {DATA}")
    action.add_argument("--out", type=Path, required=True, metavar="DATA2", help="Where the data with canaries go")
    action.add_argument(
        "--secret", type=Path, required=True, metavar="FILE",
        help="Where the secret list goes. Keep it from whoever trains the model and runs the removal",
    )  # fmt: skip
    action.add_argument(
        "--sealed", type=Path, metavar="FILE",
        help="Where a public list of salted hashes goes, one per canary. It shows later which canaries were changed, "
        "and says nothing about them",
    )  # fmt: skip
    action.add_argument(
        "--number", type=int, default=200, metavar="N", help="Canaries, in and out together. Default: %(default)s"
    )
    action.add_argument("--label", metavar="COLUMN", help="Column that the model learns to predict")
    action.add_argument("--text", metavar="COLUMN", help="Column of texts; canaries get random texts")
    action.add_argument("--key", metavar="COLUMN", help="Column of keys, all different; canaries get new ones")
    action.add_argument(
        "--source", metavar="COLUMN=VALUE", help="Rows that belong to the source. Without this option, all do"
    )
    action.add_argument(
        "--seed", type=int, metavar="N",
        help="For tests only: whoever knows the seed knows the coins. By default the operating system draws it",
    )  # fmt: skip
    action.set_defaults(run=_plant)


def _add_candidates(actions: Any) -> None:
    text = "Write all canaries without their coins, so that losses can be computed"
    action = actions.add_parser("candidates", help=text, description=f"{text}, in random order and with their ids.")
    action.add_argument("secret", type=Path, metavar="SECRET", help="The secret list that plant wrote")
    action.add_argument(
        "--out", type=Path, required=True, metavar="ROWS", help="Where they go, in the format of the data"
    )
    action.set_defaults(run=_candidates)


def _add_judge(actions: Any) -> None:
    action = actions.add_parser(
        "judge",
        help="Judge one model by its losses of the canaries",
        description="Judge one model by its losses of the canaries. Exit code 1 if it is proven that something of the "
        "source is left, 0 if nothing is shown (which does not prove that nothing is left), 2 for errors.",
    )
    action.add_argument("secret", type=Path, metavar="SECRET", help="The secret list that plant wrote")
    action.add_argument(
        "--scores", type=Path, required=True, metavar="SCORES.csv", help="CSV file with the columns canary and loss"
    )
    action.add_argument(
        "--higher-means-member", action="store_true",
        help="The file has a column score instead of loss. A higher score means that the model has seen the canary",
    )  # fmt: skip
    action.add_argument(
        "--commitment", metavar="HEX", help="The SHA-256 that plant printed: check that the list was not changed"
    )
    action.add_argument(
        "--sealed", type=Path, metavar="FILE", help="The list of salted hashes that plant wrote: check that no canary "
        "was changed",
    )  # fmt: skip
    action.add_argument("--alpha", type=float, default=0.05, metavar="P", help="Error rate. Default: %(default)s")
    action.add_argument(
        "--delta",
        type=float,
        default=1e-5,
        metavar="P",
        help="delta of the bound (epsilon, delta). Default: %(default)s",
    )
    action.add_argument("--json", type=Path, metavar="FILE", help="Write all numbers to a file")
    action.add_argument(
        "--figure", type=Path, metavar="FILE.svg", help="Draw the canaries in the order of their losses"
    )
    action.set_defaults(run=_judge)


def _plant(options: argparse.Namespace) -> None:
    secret = plant(
        options.data, options.out, options.secret, number=options.number, label=options.label, text=options.text,
        source=options.source, key=options.key, sealed=options.sealed, seed=options.seed,
    )  # fmt: skip
    where = f"the rows with {options.source}" if options.source else "all rows"
    print(f"Planted {len(secret.planted)} of {len(secret.canaries)} canaries among {where}: {options.out}")
    print(f"The secret list is {options.secret}. Keep it from whoever trains the model and runs the removal.")
    if options.sealed is not None:
        print(f"{options.sealed} has a salted hash of each canary. You may publish it.")
    print("Note down its SHA-256; it shows later that the list was not changed:")
    print(secret.commitment)


def _candidates(options: argparse.Namespace) -> None:
    secret = Secret.read(options.secret)
    candidates(secret, options.out)
    print(f"{options.out} has all {len(secret.canaries)} canaries, in and out, in random order")


def _judge(options: argparse.Namespace) -> int:
    for target in (options.json, options.figure):
        if target is not None and not target.absolute().parent.is_dir():
            raise UnlearningError(f"the directory of {target} is missing; make it first")
    judgement = judge(
        options.secret, options.scores, commitment=options.commitment, sealed=options.sealed,
        higher_means_member=options.higher_means_member, alpha=options.alpha, delta=options.delta,
    )  # fmt: skip
    for sentence in judgement.sentences():
        print(sentence)
    print(f"SHA-256 of the list: {judgement.commitment}.")
    if options.commitment is not None:
        print("It is the one that was noted down.")
    if options.sealed is not None:
        print(f"All {judgement.canaries} canaries have the hashes in {options.sealed}.")
    if not judgement.verified:
        print("It was not checked; give --sealed FILE, or --commitment with the SHA-256 that plant printed.")
    if options.json is not None:
        found = finite_tree({"sentences": judgement.sentences(), **asdict(judgement), "versions": versions()})
        write_text(options.json.absolute(), json.dumps(found, indent=1) + "\n")
    if options.figure is not None:
        write_text(options.figure.absolute(), ranking_file(judgement))
    return int(judgement.shown)
