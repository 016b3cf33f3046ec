"""Table 1, Figure 2 and the Gaussian poison of arXiv 2406.17216, run again.

The paper is "Machine Unlearning Fails to Remove Data Poisoning Attacks".

    python ci/reproduce table1 --scale full --data DIR        on a GPU; see --dry-run first
    python ci/reproduce figure2a --scale full --data DIR
    python ci/reproduce figure2b --scale full --data DIR      GPT-2 on IMDb
    python ci/reproduce table1 --scale brief --data DIR       on a GPU: made for 8 minutes of an H200
    python ci/reproduce table1 --scale small --data DIR       CIFAR-10 at a fifth, long on a CPU: see --dry-run
    python ci/reproduce figure2a --scale digits               no data set needed, minutes on a CPU
    python ci/reproduce figure2b --scale small --data DIR     a small GPT-2 from scratch, minutes on a CPU
    python ci/reproduce gaussian --scale digits               full and small as well, with --data DIR

table1: an indiscriminate poison (Gradient Canceling, 1.5 and 2.5 %), then unlearning for 2, 4, 6, 8 and 10 of 100
epochs by NegGrad+ (NGP), GA, GD, CFk, EUk and SCRUB, each at the learning rate with the best test accuracy. figure2a: a
targeted poison (Witches' Brew, 1.5 %), success of the attack against test accuracy after 10 epochs, at every rate.
figure2b: the same for a trigger phrase in reviews, after 1 of 10 epochs of fine-tuning. gaussian: noise on 1.5, 2 and
2.5 % of the images, eight methods, 2 to 10 epochs: what the Gaussian score shows (true positives at 1 % of false ones,
mean, mean square) beside what membership inference shows.

Before it starts, a command says about how long it will take on this device: it times steps of training and of crafting.
--dry-run stops then. Everything that is trained stays in the store: a run that was stopped goes on where it was, and
several processes (one per GPU, say, each under its own CUDA_VISIBLE_DEVICES and with its own --out) share the work of
one command. Full scale keeps every unlearned model, about 45 MB each; of figure2b 1.4 GB each, 230 GB in all. What was
unlearned by another version of this project's code is unlearned anew: edit nothing in between. Written to the output
folder after each seed: JSON, Markdown, and a plot in HTML where altair is installed (pip install
'pytest-unlearning[report]'; it is drawn by scripts that a browser fetches).

What "Retrain" means. In the paper's table it grows with the epochs: a model trained from scratch for as many epochs as
unlearning took. So it is here (the control `short`, the recipe's schedule compressed). Full retraining, what our audits
compare with, stands below each table.

What differs from the paper, or cannot be known, since its appendix could not be consulted:

* The rates. The paper searched [1e-6, 5e-5] "linearly" and took the best test accuracy; we try five, evenly. So the
  rate is chosen on the test data, there and here. At such rates plain SGD hardly moves freshly initialised layers: that
  EUk fails may be an artefact of the range. --lrs 1e-4,1e-3,1e-2,1e-1 shows. For Figure 2a no range is known; we try
  the paper's and that one.
* The optimiser of unlearning. Ours is the task's, SGD with Nesterov momentum .9 and weight decay 5e-4, its rate falling
  to zero. Accuracies of exactly 10 % for GA and NGP at all rates hint at Adam, or at other loss weights.
* Weights. NGP's beta (ours .95; with beta near 1 it is GD and cannot collapse), SCRUB's (those of its authors for
  CIFAR-10) and the k of CFk and EUk (ours: head and last residual block) are not given. CFk ends below the poisoned
  model there, although it starts from it; what lets it do so is not said.
* Training. 100 epochs are given, the rest is not; ours is common practice (SGD, rate .1 on a cosine, flips and crops).
* GPT-2 has a classification head here. --task=imdb-gpt2:head=causal has it answer in a word instead.
* GA's epochs are passes over the forget set. Epochs are no measure of compute: an epoch of SCRUB costs 4/3 of one of
  GD. The JSON has what was measured, as a share of retraining.
* Poisons as our own implementations craft them; their docstrings name deviations. The indiscriminate one replaces
  points, where the original adds them, and its radius is to be set so that the poisoned models come near the paper's
  81.67 and 69.62 % (--poison indiscriminate:fraction=0.015,radius=…). The targets of the targeted one are chosen near
  the adversarial class, two per run, where the paper probably drew one at random.
* For gaussian no range of rates is known; we try 1e-4 to 0.1, and take the best test accuracy as for Table 1. The score
  divides class scores by their spread (docs/poisons.md). Membership is inferred by the loss, and by a likelihood ratio
  against the retrained models of the other seeds; the paper's own reference models are not known.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper import FULL, SCALES, TITLES, WORTH

from harness.api import UnlearningError


def main() -> int:
    """Run what is missing and write the results; return the exit code."""
    options = parse()
    try:
        return study(options)
    except UnlearningError as error:
        # Sentences that name an option mean pytest's.
        print(f"reproduce: {str(error).replace('--audit-', '--')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nstopped; what was trained is kept, and the results of the seeds that were done are in {options.out}/"
            f"\nto go on: {shlex.join([Path(sys.executable).name, *sys.argv])}"
        )
        return 130


def parse() -> argparse.Namespace:
    """Return the options, with what the scale says where they say nothing."""
    parser = argparse.ArgumentParser(
        "reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=tuple(TITLES), help="what to run")
    add("--scale", choices=list(SCALES), default="full", help="how much is trained; default full")
    add("--task", metavar="SPEC", help="another task than the scale's, as for pytest --task")
    add("--poison", metavar="SPEC", action="append", help="other poisons than the scale's; repeats")
    add("--method", metavar="SPEC", action="append", help="other methods than the scale's; repeats")
    add("--seeds", metavar="N", type=_count, help="runs, each on a poison and models of its own")
    add("--epochs", metavar="N,…", type=_list(_count), help="epochs of unlearning; figures take the last")
    add("--lrs", metavar="X,…", type=_list(_rate), help="learning rates to try")
    add("--data", metavar="DIR", type=_folder, help="data sets, CIFAR-10 in DIR/cifar10; default the hub")
    add("--store", metavar="DIR", type=Path, help="where models are kept; default the user's cache directory")
    add("--out", metavar="DIR", type=Path, default=Path("reproduced"), help="where results go; default reproduced/")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where models are trained; default auto")
    add("--dry-run", action="store_true", help="say what is missing and what it would cost, then stop")
    options = parser.parse_args()
    if options.what not in SCALES[options.scale]:
        others = " and ".join(name for name, parts in SCALES.items() if options.what in parts)
        parser.error(f"{options.what} has no scale {options.scale}; it has {others}")
    part = SCALES[options.scale][options.what]
    options.task = options.task or part.task
    options.poison = options.poison or part.poisons
    options.method = options.method or part.methods
    options.seeds = options.seeds or part.seeds
    options.lrs = options.lrs or part.rates
    options.epochs = options.epochs or part.epochs
    if options.what.startswith("figure"):
        options.epochs = options.epochs[-1:]
    return options


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {text}")
    return Path(text).resolve()


def _list(of: Any) -> Any:
    return lambda text: tuple(sorted({of(each) for each in text.split(",")}))


def study(options: argparse.Namespace) -> int:
    """Run a study from what the store has; return the exit code."""
    import gaussian
    import results
    import runs
    from machine import describe

    from harness.store.artefacts import default_root
    from harness.trials.devices import device_of, kind_of_device
    from harness.trials.lab import Lab, new_run

    started = time.time()
    device = device_of(kind_of_device(options.device))
    _refuse_weeks(options, device)
    planned = _plan(options)
    root = Path(options.store or default_root())
    lab = Lab.open(
        root, data=options.data, device=options.device, budget=1.0, run=new_run("reproduce"),
        show=lambda *progress: work.training(*progress),
    )  # fmt: skip
    work = runs.Work(lab, planned, _say)
    _say(f"{options.what} on {options.task}: {len(planned)} runs, {options.seeds} of each setting; store {root}")
    if options.scale in WORTH:
        _say(WORTH[options.scale])
    _foretell(work, lab, planned[0].trial.cell)
    if options.dry_run:
        return 0

    def write(seeds: int) -> list[Path]:
        chosen = {name: getattr(options, name) for name in ("scale", "task", "poison", "method", "epochs", "lrs")}
        about = {
            "argv": sys.argv[1:],
            **describe(device),
            "seconds": time.time() - started,
            "settings": {**chosen, "seeds": options.seeds, "finished_seeds": seeds},
            "errors": {str(run): error for run, error in work.errors.items()},
        }
        last = options.what == "gaussian" and seeds == options.seeds
        attacks = work.attacks(gaussian.attacked(work.done)) if last else None
        return results.write(results.document(options.what, about, work.done, attacks), options.out)

    work.finish(on_seeds=write)
    return _report(work, write(options.seeds))


def _refuse_weeks(options: argparse.Namespace, device: Any) -> None:
    large = options.scale in ("full", "brief") and options.task.partition(":")[0] in FULL
    if large and device.type == "cpu" and options.device == "auto" and not options.dry_run:
        raise UnlearningError(
            f"the scale {options.scale} is for a GPU, and none can be used here; --scale=small and --scale=digits run "
            "anywhere (--device=cpu insists)"
        )


def _plan(options: argparse.Namespace) -> Any:
    """Return the runs that the options ask for."""
    import runs

    from harness import registry

    task = registry.resolve("task", options.task)
    if options.epochs[-1] > task.value.epochs:
        raise UnlearningError(
            f"{options.epochs[-1]} epochs of unlearning are more than the {task.value.epochs} of training on {task.id}"
        )
    poisons = registry.resolve_all("poison", options.poison)
    methods = registry.resolve_all("unlearner", options.method)
    return runs.planned(task, poisons, methods, options.epochs, options.lrs, options.seeds)


def _foretell(work: Any, lab: Any, cell: Any) -> None:
    """Say what is missing and what that costs."""
    from harness.report.words import duration

    forecast = work.forecast()
    if forecast["models"]:
        import estimate

        cost = lab.cost(cell.task)
        whole = estimate.seconds_of(lab, cost, cell.task.value.epochs, forecast)
        crafted = f", {len(forecast['crafted'])} poisons to be crafted" if forecast["crafted"] else ""
        untimed = sorted({each.cell.poison.id for each in forecast["crafted"] if not estimate.can_be_timed(each)})
        _say(
            f"{forecast['models']:.0f} models are missing{crafted}: about {duration(whole)} on one {lab.device.type}, "
            f"{cost.size * forecast['models'] / 1e9:.1f} GB of disk"
            + (f"; crafting {', '.join(untimed)} comes on top" if untimed else "")
        )


def _say(text: str) -> None:
    print(text, flush=True)


def _report(work: Any, files: Sequence[Path]) -> int:
    """Print what was found and where it is; return the exit code."""
    print(f"\n{files[1].read_text(encoding='utf-8')}")
    print(f"{len(work.trained)} models trained; wrote {', '.join(map(str, files))}")
    if not any(path.suffix == ".html" for path in files):
        print("no plot: altair is not installed (pip install 'pytest-unlearning[report]')")
    for run, error in work.errors.items():
        print(f"failed: {run}: {error}", file=sys.stderr)
    return 1 if work.errors else 0


if __name__ == "__main__":
    sys.exit(main())
