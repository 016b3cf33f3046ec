"""From a pilot, whether a poison acts strongly enough to be judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from _pytest_unlearning import DEFAULTS
from harness import registry
from harness.api import Outcome, UnlearningError
from harness.judging.claims import Criterion, walking
from harness.judging.judge import judge
from harness.judging.plan import LOOKS, Plan
from harness.judging.verdict import Evidence
from harness.statistics import seeds_needed, tost_power
from harness.statistics.equivalence import FEWEST
from harness.studies.controls import ORACLE
from harness.studies.dials import stronger
from harness.studies.study import Study
from harness.trials.lab import Lab, new_run

#: Pilots begin here, far from the seeds of audits.
PILOT_SEED = 1000


@dataclass(frozen=True)
class Forecast:
    """What a pilot says of one claim, were the oracle audited by the plan.

    Attributes:
        poison, measure: What was measured.
        title: What that is called, e.g. ``"Gaussian score"``.
        test: How it is judged: ``"retention"``, ``"exact-null"`` or ``"non-inferiority"``.
        margin: What may differ: a fraction of the effect, or accuracy as a share of 1; not a number for an exact null.
        least_margin: Accuracy: the smallest margin at which the oracle PASSes with probability .9 at the last look, if
            it is normal; None for other claims.
        resolution: Half of the smallest step of the measure, such as one test example; 0 if it has none.
        n: Seeds of the pilot.
        poisoned, retrained, oracle: Mean of the measure over the pilot's P, R and R'.
        effect: Mean of P - R.
        effect_sds: The effect in standard deviations over seeds of P - R; infinite where that never varies.
        noise: Standard deviation over seeds of R' - R.
        passes: Probability that the oracle has PASSed by each look, simulated; the last is its planned power.
        fails: Probability that the oracle FAILs.
        mean_seeds: Seeds that its verdict takes on average.
        dials: Fields of the poison that can be raised to make it stronger.
        seeds_80, seeds_90: Seeds for a PASS at one look with 80 and 90 % probability; None if over 1,000, and for
            an exact null, which has no margin.
    """

    poison: str
    measure: str
    title: str
    test: str
    margin: float
    least_margin: float | None
    resolution: float
    n: int
    poisoned: float
    retrained: float
    oracle: float
    effect: float
    effect_sds: float
    noise: float
    passes: dict[int, float]
    fails: float
    mean_seeds: float
    seeds_80: int | None
    seeds_90: int | None
    dials: tuple[str, ...] = ()

    @property
    def power(self) -> float:
        """Probability that the oracle PASSes within the plan; .9 or more makes a cell worth auditing."""
        return self.passes[LOOKS[-1]]


def forecast_from(
    criterion: Criterion, pilot: Evidence, poison: str, plan: Plan, runs: int = 1000, dials: Sequence[str] = ()
) -> Forecast:
    """Simulate the plan on the oracle, with normal numbers that have the pilot's means and covariances.

    R and R' are retrained in the same way. So their true means are one, and the simulation gives both the mean of the
    pilot's R and R' together, whatever lies between them by chance. Under an exact null both are N(0, 1).

    Args:
        criterion: What is judged.
        pilot: Evidence of at least three seeds.
        poison: Id, for the result.
        plan: The plan.
        runs: Simulated studies.
        dials: Fields that make the poison stronger, for the result.

    Raises:
        UnlearningError: A model of the pilot diverged, or what was read of it is not finite.
        ValueError: The pilot has fewer than three seeds.
    """
    n = len(pilot)
    if n < FEWEST:
        raise ValueError(f"a pilot takes at least {FEWEST} seeds, not {n}")
    arms = {"poisoned": pilot.poisoned, "retrained": pilot.retrained, "twice retrained": pilot.oracle}
    for name, values in {**arms, "wrecked": pilot.wrecked}.items():
        if bad := [seed for seed, value in enumerate(values) if not math.isfinite(value)]:
            raise UnlearningError(
                f"{criterion.measure.title} is not finite for the {name} model of the pilot's seed no. {bad[0] + 1}: "
                "fix the task's recipe, for example its learning rate, or the poison's probe"
            )
    worse = 1 if criterion.measure.worse == "higher" else -1
    retention, exact = (criterion.measure.test == test for test in ("retention", "exact-null"))
    means, covariance = _law(pilot, criterion)
    draws = np.random.default_rng(0).multivariate_normal(means, covariance, (runs, LOOKS[-1]))
    judgements = []
    for p, r, oracle, wrecked in (map(tuple, study.T.tolist()) for study in draws):
        judgements.append(judge(criterion, Evidence(p, r, oracle, oracle, wrecked, (), pilot.resolution), plan))
    passed = [j.seeds for j in judgements if j.outcome is Outcome.PASS]
    effect = [p - r for p, r in zip(pilot.poisoned, pilot.retrained, strict=True)]
    fresh = [o - r for o, r in zip(pilot.oracle, pilot.retrained, strict=True)]
    # How far inside the margin the oracle is: on average by the whole margin, since R' - R is 0 on average.
    distance = criterion.margin * (worse * float(means[0] - means[1]) if retention else 1.0)
    inside = [(criterion.margin * e if retention else 0.0) - f for e, f in zip(effect, fresh, strict=True)]
    sd = max(stdev(inside), pilot.resolution)
    return Forecast(
        poison=poison,
        measure=criterion.measure.name,
        title=criterion.measure.title,
        test=criterion.measure.test,
        margin=criterion.margin,
        least_margin=None if retention or exact else _least_margin(sd, plan),
        resolution=pilot.resolution,
        n=n,
        poisoned=fmean(pilot.poisoned),
        retrained=fmean(pilot.retrained),
        oracle=fmean(pilot.oracle),
        effect=fmean(effect),
        effect_sds=abs(fmean(effect)) / stdev(effect) if stdev(effect) > 0 else float("inf"),
        noise=stdev(fresh),
        passes={look: sum(seeds <= look for seeds in passed) / runs for look in LOOKS[1:]},
        fails=sum(j.outcome is Outcome.FAIL for j in judgements) / runs,
        mean_seeds=fmean(j.seeds for j in judgements),
        seeds_80=None if exact else _needed(distance, sd, retention, plan, 0.8),
        seeds_90=None if exact else _needed(distance, sd, retention, plan, 0.9),
        dials=tuple(dials),
    )


def _law(pilot: Evidence, criterion: Criterion) -> tuple[np.ndarray, np.ndarray]:
    """Return means and covariances of P, R, R' and of a model that was never trained."""
    arms = np.array([pilot.poisoned, pilot.retrained, pilot.oracle, pilot.wrecked])
    means, covariance = arms.mean(axis=1), np.cov(arms)
    means[1:3] = means[1:3].mean()
    if criterion.measure.test == "exact-null":
        means[1:3] = 0
        covariance[1:3], covariance[:, 1:3] = 0, 0
        covariance[1, 1] = covariance[2, 2] = 1
    return means, covariance


def _needed(distance: float, sd: float, two_sided: bool, plan: Plan, power: float) -> int | None:
    """Return the seeds at which a PASS at one look has so much power; None if over 1,000.

    Args:
        distance: From the oracle's true value to the margin, or to both margins.
        sd: Standard deviation over seeds of what is tested.
        two_sided: Whether there are two margins.
        plan: The plan.
        power: The power.
    """
    if distance <= 0:
        return None
    if sd == 0:
        return plan.min_pass
    needed = seeds_needed(distance, sd, plan.pass_level, power, two_sided=two_sided)
    return None if needed is None else max(needed, plan.min_pass)


def _least_margin(sd: float, plan: Plan, power: float = 0.9) -> float:
    """Return the smallest margin at which a PASS at the last look has so much power."""
    if sd == 0:
        return 0.0
    # In standard deviations: the power is below the wanted one at 0, and above it at 10.
    low, high = 0.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        enough = tost_power(LOOKS[-1], middle, 1.0, plan.pass_level, two_sided=False) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high * sd


def plan_study(
    task: str = DEFAULTS["task"],
    poison: str | Sequence[str] | None = None,
    *,
    seeds: int = 10,
    first: int = PILOT_SEED,
    plan: str = DEFAULTS["plan"],
    alpha: float = DEFAULTS["alpha"],
    tolerance: float = DEFAULTS["tolerance"],
    store: str | Path | None = None,
    data: str | Path | None = None,
    device: str = DEFAULTS["device"],
    on_seed: Callable[[str, int], None] = lambda *_: None,
) -> list[Forecast]:
    """Run a pilot and say what audits on it can expect, claim by claim.

    Args:
        task: Spec of a task.
        poison: Specs of poisons; None for those the task lists.
        seeds: Size of the pilot, at least 3; three trainings a seed for the first poison, one more for each other that
            plants the same points.
        first: First seed of the pilot; keep away from the audits' 0 to 15.
        plan: As for `harness.audit`.
        alpha: As for `harness.audit`.
        tolerance: As for `harness.audit`.
        store: As for `harness.audit`.
        data: As for `harness.audit`.
        device: As for `harness.audit`.
        on_seed: Called with (id of a poison, seeds that are done for it) after each seed.

    Returns:
        A `Forecast` for each trace of each poison, and for accuracy beside them. A planned power below .9 calls for a
        stronger poison or a steadier task rather than for more seeds.

    Raises:
        UnlearningError: Something named cannot be found or used.
        ValueError: A number is out of range.
    """
    if seeds < FEWEST:
        raise ValueError(f"a pilot takes at least {FEWEST} seeds, not {seeds}")
    looks = Plan(alpha=alpha, first=first, kind=plan).to_the_end  # as for the oracle of an audit
    oracle = registry.resolve("unlearner", ORACLE)
    poisons = [poison] if isinstance(poison, str) else poison or ()
    cells = registry.cells([oracle], [registry.resolve("task", task)], poisons)
    lab = Lab.open(store, data=data, device=device, run=new_run("pilot"))
    study = Study(cells, lab, looks, tolerance)
    forecasts: list[Any] = []
    for cell in cells:
        for done in range(1, seeds + 1):
            evidence = study.evidence(cell, done)
            on_seed(cell.poison.id, done)
        dials = tuple(field for field, (_, refusal) in stronger(cell.poison).items() if not refusal)
        for claim in walking(cell):
            for criterion, of in evidence[claim.name].items():
                forecasts.append(forecast_from(criterion, of, cell.poison.id, looks, dials=dials))
    return forecasts
