"""Trials on a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from harness.api import DeviceLost, Reading, UnlearningError
from harness.cells import Cell, Trial
from harness.store.artefacts import Busy
from harness.studies.notes import EVERY, Noting, write_note

if TYPE_CHECKING:
    from harness.trials.lab import Lab, TrialResult
    from harness.trials.models import Soon


#: How often a trial is started again whose node or process died.
RETRIES = 3


@dataclass(frozen=True)
class Cluster:
    """What ``--audit-executor`` names: ``ray[://HOST:PORT][?gpus=F&cpus=N]``.

    Attributes:
        address: Address of a Ray client server; None for the cluster of ``RAY_ADDRESS``, else one that runs on this
            machine, else a new one on this machine.
        gpus: GPUs of a trial, fractions of one included, where the cluster has any.
        cpus: CPUs of a trial; 0 for as many as its task computes on threads.
    """

    address: str | None = None
    gpus: float = 1.0
    cpus: float = 0.0

    @classmethod
    def of(cls, text: str) -> Cluster:
        """Parse the option.

        Raises:
            UnlearningError: It does not have that form.
        """
        match = re.fullmatch(r"ray(?P<address>://[^/?#]+:\d+)?(\?(?P<query>.+))?", text)
        try:
            if match is None:
                raise ValueError
            pairs = parse_qsl(match["query"] or "", strict_parsing=match["query"] is not None)
            wanted = {name: float(value) for name, value in pairs if name != "address"}
            if len(wanted) < len(pairs) or not all(0 < number < math.inf for number in wanted.values()):
                raise ValueError
            return cls(f"ray{match['address']}" if match["address"] else None, **wanted)
        except (ValueError, TypeError):
            raise UnlearningError(
                f"--audit-executor takes local, ray, or ray://HOST:PORT, with ?gpus=F&cpus=N at its end if a trial "
                f"takes other than one GPU, not {text!r}"
            ) from None


def connect(executor: str, store: str) -> Callable[[], None]:
    """Connect to a Ray cluster; what is returned disconnects.

    Args:
        executor: What ``--audit-executor`` names.
        store: Where artefacts are, which every node must reach.

    Raises:
        UnlearningError: Ray is not installed or the cluster cannot be reached.
    """
    cluster = Cluster.of(executor)
    if store.startswith("memory://"):
        raise UnlearningError("--audit-executor=ray needs a store that every process can reach, not memory://")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start tells nobody
    try:
        from ray import init, is_initialized, shutdown
    except ImportError:
        raise UnlearningError("--audit-executor=ray needs Ray: pip install 'pytest-unlearning[ray]'") from None
    if is_initialized():  # by whoever runs us
        return lambda: None
    try:
        init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        where = cluster.address or os.environ.get("RAY_ADDRESS") or "on this machine"
        raise UnlearningError(
            f"--audit-executor: the Ray cluster {where} cannot be reached ({said}); check its address, and set "
            "RAY_AUTH_MODE=token if it asks for one"
        ) from None
    stop: Callable[[], None] = shutdown
    return stop


@dataclass(frozen=True)
class _Sent:
    """A request at work: where its answer will be, and what nobody else may make meanwhile."""

    answer: Any
    claims: frozenset[Hashable]
    trial: Trial


class Ray:
    """A Ray cluster to which `connect` has connected; a trial is a Ray task.

    Artefacts go through the store. Each is made by one task: as long as the models P and R of a poison at a seed are
    not known to be made, one trial at a time works at that task and seed, and the same method works on one trial of
    them at a time. Where models are trained side by side, a task gets trials of other seeds with its own, trains their
    models in its groups, and nobody else works at these seeds meanwhile. A task whose node or process dies is started
    again elsewhere. Methods and their settings travel by cloudpickle within the cluster, which runs their code anyway.

    Args:
        make_lab: Makes the lab of a worker process; it travels too.
        cluster: What a trial takes.
        budget: Compute an unlearner may use, as a fraction of retraining.
        watch: Told again and again, while there is nothing else to do, which trials are at work; must be quick.
    """

    def __init__(
        self,
        make_lab: partial[Lab],
        cluster: Cluster,
        budget: float,
        watch: Callable[[Iterable[Trial]], None] = lambda at_work: None,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._cluster = cluster
        self._make_lab = make_lab
        self._watch = watch
        self.budget = budget
        self._cells: tuple[Cell, ...] = ()
        self._soon: Soon = tuple
        self._sent: dict[Hashable, _Sent] = {}
        self._made: set[Hashable] = set()
        self._setup: bytes | None = None
        # A process that was on one GPU stays there: those of trials on GPUs serve once.
        self._tasks = {
            on_gpu: ray.remote(max_retries=RETRIES, max_calls=int(on_gpu))(_work) for on_gpu in (False, True)
        }
        self._asked, self._has = -math.inf, dict[str, float]()

    @property
    def made_on(self) -> str:
        return "cuda" if self._gpus else "cpu"

    def will_need(self, cells: Iterable[Cell], soon: Soon | None = None) -> None:
        self._cells = (*self._cells, *cells)
        self._soon = soon or self._soon
        self._setup = None

    def run(self, trial: Trial) -> TrialResult:
        result: TrialResult = self._ask("run", trial, trial, self._claims(trial))
        self._made.add(models_of(trial))
        return result

    def unlearn(self, trial: Trial) -> None:
        self._ask("unlearn", trial, trial, self._claims(trial))

    def relearned(self, trial: Trial) -> dict[str, Reading]:
        result: dict[str, Reading] = self._ask("relearned", trial, trial)
        return result

    def heuristics(self, trials: Sequence[Trial]) -> list[dict[str, dict[str, Reading]]]:
        result: list[dict[str, dict[str, Reading]]] = self._ask("heuristics", tuple(trials), trials[0])
        return result

    def _claims(self, trial: Trial) -> frozenset[Hashable]:
        """Return what a trial may make that another one could make too."""
        claims: set[Hashable] = {(*place_of(trial), trial.cell.unlearner)}
        if models_of(trial) not in self._made:
            claims.add(place_of(trial))
        return frozenset(claims)

    def _ahead(self, trial: Trial, free: int) -> tuple[Trial, ...]:
        """Return the trials whose models a task may train in one group with those of its own trial."""
        group = self._make_lab.keywords.get("group")
        if (group or 0) == 1 or (group is None and not self._gpus):
            return ()
        taken = frozenset[Hashable]().union(*(sent.claims for sent in self._sent.values()))
        missing = (each for each in self._soon() if models_of(each) not in self._made)
        return beside(trial, missing, taken, free)

    def _ask(self, method: str, of: Hashable, trial: Trial, claims: frozenset[Hashable] = frozenset()) -> Any:
        """Return what a lab's method returns, or raise what it raises; send the request if that was not done yet.

        Raises:
            Busy: It is at work, or cannot be sent yet.
        """
        key = (method, of)
        if key not in self._sent:
            free = self._slots() - len(self._sent)
            if free <= 0 or any(claims & other.claims for other in self._sent.values()):
                raise Busy(trial.id)
            ahead = self._ahead(trial, free) if method == "run" else ()
            for each in ahead:
                claims |= {place_of(each), (*place_of(each), trial.cell.unlearner)}
            self._sent[key] = _Sent(self._send(method, of, trial, ahead), claims, trial)
            raise Busy(trial.id)
        answer = self._sent[key].answer
        if not self._ray.wait([answer], timeout=0)[0]:
            self._watch(sent.trial for sent in self._sent.values())
            raise Busy(trial.id)
        del self._sent[key]
        try:
            value, error = self._ray.cloudpickle.loads(self._ray.get(answer))
        except self._ray.exceptions.RayError as lost:
            said = str(lost).strip().partition("\n")[0]
            raise UnlearningError(
                f"{trial.id} was lost on the Ray cluster, {RETRIES + 1} times: {type(lost).__name__}: {said}"
            ) from None
        if error is not None:
            raise error
        return value

    def _send(self, method: str, of: Hashable, trial: Trial, ahead: Sequence[Trial]) -> Any:
        dumps = self._ray.cloudpickle.dumps
        if self._setup is None:
            # Sent along with every trial, and no object of its own in Ray: a few kB, and one thing less to be lost.
            self._setup = dumps((self._make_lab, self._cells))
        task = self._tasks[self._gpus > 0].options(name=trial.id, num_cpus=self._cpus(trial), num_gpus=self._gpus)
        here = [folder or os.getcwd() for folder in sys.path]
        return task.remote(here, self._setup, dumps((method, of, ahead)))

    def _cpus(self, trial: Trial) -> float:
        threads: int = trial.cell.task.value.threads
        return self._cluster.cpus or threads

    @cached_property
    def _gpus(self) -> float:
        """GPUs of a trial; decided once, since evidence from two kinds of device is none."""
        return self._cluster.gpus if self._resources().get("GPU") else 0.0

    def _slots(self) -> int:
        """Return how many trials the cluster can run at once, one at least: it may be starting a node for it."""
        cpus = max(self._cpus(Trial(cell, 0)) for cell in self._cells)
        has, gpus = self._resources(), self._gpus
        return max(1, int(min(has.get("CPU", 0) / cpus, has.get("GPU", 0) / gpus if gpus else math.inf)))

    def _resources(self) -> Mapping[str, float]:
        if time.monotonic() - self._asked > 1:  # nodes come and go
            self._asked, self._has = time.monotonic(), self._ray.cluster_resources()
        return self._has


def place_of(trial: Trial) -> tuple[Hashable, ...]:
    """Return where a trial makes models: its task and its seed, of which all poisons share R."""
    return (trial.cell.task, trial.seed)


def models_of(trial: Trial) -> tuple[Hashable, ...]:
    """Return whose P and R, and D, a trial needs."""
    return (*place_of(trial), trial.cell.poison, trial.cell.discovery)


def beside(trial: Trial, missing: Iterable[Trial], taken: frozenset[Hashable], free: int) -> tuple[Trial, ...]:
    """Share seeds out among the tasks that can start now; return the trials of the seeds of this one.

    Args:
        trial: That is about to be sent.
        missing: Trials whose models may be missing, in the order of the plan.
        taken: What other tasks are at work on.
        free: How many tasks can start, this one included; at least 1.

    Returns:
        Other trials of its task, in the order of the plan. Seeds at which somebody is at work are left out.
    """
    places: dict[Hashable, list[Trial]] = {place_of(trial): []}
    for each in missing:
        same_task = each.cell.task == trial.cell.task
        if same_task and not {place_of(each), (*place_of(each), trial.cell.unlearner)} & taken:
            places.setdefault(place_of(each), []).append(each)
    own = list(places.values())[: math.ceil(len(places) / free)]
    return tuple(each for of_seed in own for each in of_seed if each != trial)


#: The lab of a worker process of Ray, by what it was made from; it is kept from trial to trial, with the data.
_LABS: dict[bytes, Lab] = {}


def _work(path: Sequence[str], setup: bytes, request: bytes) -> bytes:
    """Run one request on a worker of Ray; what the method raises is passed on, and is no failure of the task."""
    import ray

    cloudpickle: Any = ray.cloudpickle
    sys.path += [folder for folder in path if folder not in sys.path]
    value = None
    raised: Exception | None = None
    try:
        if setup not in _LABS:
            make_lab, cells = _loads(setup)
            _LABS.clear()
            _LABS[setup] = make_lab()
            _LABS[setup].will_need(cells)
        method, of, ahead = _loads(request)
        _LABS[setup].will_need((), lambda: ahead)
        value = getattr(_LABS[setup], method)(of)
    except DeviceLost:
        os._exit(1)  # Ray starts the trial again in another process, elsewhere if need be
    except Busy as error:
        raised = error
    except UnlearningError as error:  # a sentence that says all
        raised = error
    except Exception as error:
        raised = error
        raised.add_note("on the Ray cluster:\n" + "".join(traceback.format_exception(error)))
    try:
        cloudpickle.loads(cloudpickle.dumps(raised))
    except Exception:  # an exception that cannot travel
        raised = RuntimeError("".join(traceback.format_exception(raised)))
    return bytes(cloudpickle.dumps((value, raised)))


def _loads(content: bytes) -> Any:
    from ray import cloudpickle

    try:
        return cloudpickle.loads(content)
    except ImportError as error:
        raise UnlearningError(
            f"a node of the Ray cluster cannot import what is audited ({error}); install it there, or run from a "
            "folder that all nodes share"
        ) from None


class RayNotes(Noting):
    """A worker of Ray: it sends its notes to the run's board, and waits for nothing.

    Args:
        board: Name of the actor.
    """

    def __init__(self, board: str) -> None:
        self._board = board

    def _note(self, trial: Trial, text: str) -> None:
        with contextlib.suppress(Exception):  # whatever ails the cluster, a training does not end for a note
            self._send.remote(trial.id, f"{platform.node()}: {text}")

    @cached_property
    def _send(self) -> Any:
        import ray

        return ray.get_actor(self._board).note.options(num_returns=0)


class _Board:
    """The actor: the last note of every trial."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def note(self, trial: str, text: str) -> None:
        self._notes[trial] = text

    def read(self, trials: Sequence[str]) -> dict[str, str]:
        return {trial: self._notes[trial] for trial in trials if trial in self._notes}


class Board:
    """The controller's side of Ray: has a board, an actor that ends with the run, and looks at it in passing.

    It waits for no answer, so a board that is starting, busy or gone costs nothing but news. One whose node died is
    started elsewhere, empty: within a pass, those at work have told it again.

    Args:
        folder: Where the processes of this run note what they do.
    """

    def __init__(self, folder: Path) -> None:
        import ray

        self._ray: Any = ray
        self._folder = folder
        self._name = f"pytest-unlearning-{folder.name}"
        self._asked = -math.inf
        self._answer: Any = None
        self._heard: dict[str, str] = {}
        self.notes = RayNotes(self._name)

    @cached_property
    def _actor(self) -> Any:
        """The board; made at the first look, when the first trials have taken the processes that Ray keeps ready."""
        return self._ray.remote(num_cpus=0, max_restarts=-1)(_Board).options(name=self._name).remote()

    def __call__(self, at_work: Iterable[Trial]) -> None:
        """Show what was heard of the trials at work, and ask again; at most twice a second."""
        now = time.monotonic()
        if now - self._asked < EVERY:
            return
        self._asked = now
        trials = [trial.id for trial in at_work]
        if self._answer is None or self._ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._heard = self._ray.get(self._answer) if self._answer is not None else {}
            self._answer = self._actor.read.remote(trials)
        heard = [self._heard[trial] for trial in trials if trial in self._heard]
        silent = len(trials) - len(heard)
        write_note(self._folder, "ray", " · ".join([*heard, *([f"{silent} starting"] if silent else [])]))
