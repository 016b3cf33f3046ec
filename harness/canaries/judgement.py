"""From the scores of canaries to a lower bound on what a model still knows of them.

The bound is that of Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846): the
canaries with the lowest losses are guessed to be in, as many with the highest losses to be out, and the number of right
guesses rejects every epsilon that would hardly allow so many.

To try many numbers of guesses and report the largest bound would be optimistic. So the numbers are declared beforehand:
all canaries are guessed, a half of them, and a quarter (`SHARES`). Each is tried in both directions, because a removal
that overshoots leaves the canaries that were in with *higher* losses. Each of these six tests gets a sixth of alpha. So
all six bounds hold together with probability 1 - alpha, and the largest may be reported (Bonferroni; this does not need
independent tests). To guess all is best if every canary is remembered a little; a quarter, if some are remembered well.
No single share is good at both. In simulations with 50 and 200 canaries, the three together found about as much as the
best single one.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.api import UnlearningError
from harness.canaries.sealing import check_sealed
from harness.canaries.secret import Secret, listed
from harness.statistics import eps_lower_single, one_run_eps

#: The shares of the canaries that are guessed, half of them as in and half as out.
SHARES = (1.0, 0.5, 0.25)
DISCLAIMER = "This can prove that something is left, never that nothing is."


@dataclass(frozen=True)
class Guesses:
    """One of the tests.

    Attributes:
        made: Guesses: half of them are the canaries that look most like members, the other half those that look least.
        right: How many of them were right.
        reverse: Whether the guesses were made the other way round.
        needed: The least number of right guesses that would have shown something; None if not even all of them.
        epsilon: A lower bound on epsilon for one canary, 0 if nothing is shown.
        source_epsilon: The same for the whole source.
    """

    made: int
    right: int
    reverse: bool
    needed: int | None
    epsilon: float
    source_epsilon: float


@dataclass(frozen=True)
class Judgement:
    """What the scores of canaries show of one model.

    Attributes:
        canaries: How many there are, in and out.
        planted: How many were in.
        alpha: Error rate, over all tests.
        delta: What epsilon goes with.
        epsilon: The chain of training and removal is not (epsilon', delta)-differentially private with respect to a
            single canary for any epsilon' below this, with probability 1 - alpha. 0 if nothing is shown.
        source_epsilon: The removal is not (epsilon', delta)-unlearning of the whole source for any epsilon' below this.
            Usually it is far larger: what a canary may add, all of them together may add many times.
        tests: All of them, in a fixed order.
        ranking: Whether each canary was in, from the one that looks most like a member to the one that looks least.
        commitment: SHA-256 of the secret list; ``""`` if there is no such list.
        verified: Whether it was compared with what was noted down or sealed when the canaries were planted.
    """

    canaries: int
    planted: int
    alpha: float
    delta: float
    epsilon: float
    source_epsilon: float
    tests: tuple[Guesses, ...]
    ranking: tuple[bool, ...]
    commitment: str
    verified: bool

    @classmethod
    def of(
        cls, ranking: Sequence[bool], alpha: float, delta: float, commitment: str = "", verified: bool = False
    ) -> Judgement:
        """Return what a ranking shows; see the attributes."""
        tests = guesses_of(ranking, alpha, delta)
        return cls(
            len(ranking), sum(ranking), alpha, delta, max(test.epsilon for test in tests),
            max(test.source_epsilon for test in tests), tests, tuple(ranking), commitment, verified,
        )  # fmt: skip

    @property
    def shown(self) -> bool:
        """Whether it is proven that something of the canaries is left."""
        return self.epsilon > 0

    @property
    def best(self) -> Guesses:
        """The test with the largest bound; the first one, which guesses all canaries, if nothing is shown."""
        return max(self.tests, key=lambda test: test.epsilon)

    def sentences(self) -> list[str]:
        """Return the result in words."""
        best = self.best
        found = f"{best.right} of {best.made} guesses were right; by chance, {best.made // 2} are expected"
        if not self.shown:
            proof = "would have proven that something is left"
            needed = f"Not even {best.made} {proof}" if best.needed is None else f"{best.needed} right guesses {proof}"
            return [f"{found}. {needed}. Nothing was shown. This does not prove that nothing is left."]
        proven = f"with {100 * (1 - self.alpha):g} % confidence epsilon is {at_least(self.epsilon)}"
        if best.reverse:
            several = [
                f"Guessed the other way round, {found}; {proven}: the removal overshot, and the canaries stand out.",
                "This is also what scores of the wrong direction look like; see --higher-means-member.",
            ]
        else:
            several = [f"{found}; {proven}: what the source taught is still there."]
        if self.source_epsilon > self.epsilon:
            several.append(
                f"This is the epsilon of one canary. For unlearning of the whole source, epsilon is "
                f"{at_least(self.source_epsilon)} (delta = {self.delta:g} for both)."
            )
        return [*several, DISCLAIMER]


def judge(
    secret: Secret | str | Path,
    scores: Mapping[str, float] | str | Path,
    *,
    commitment: str | None = None,
    sealed: str | Path | None = None,
    higher_means_member: bool = False,
    alpha: float = 0.05,
    delta: float = 1e-5,
) -> Judgement:
    """Judge one model by its scores of canaries.

    The scores must not depend on the coins in any other way than through the model: whoever computes them should not
    know the secret list (`harness.canaries.candidates`).

    Args:
        secret: The secret list, or its file.
        scores: The loss of every canary under the model, by id, or a CSV file with the columns ``canary`` and ``loss``.
        commitment: The SHA-256 that was noted down when the canaries were planted; None if it is not to be compared.
        sealed: The public file of salted hashes that was written then; None if it is not to be compared.
        higher_means_member: The scores are higher for what the model has seen; a file may then call them ``score``.
        alpha: Error rate, in (0, 1).
        delta: In [0, 1).

    Raises:
        UnlearningError: The secret was changed, the scores are not one number for each canary, or ``alpha`` or
            ``delta`` is out of range, in one sentence.
    """
    if not 0 < alpha < 1:
        raise UnlearningError(f"alpha must be in (0, 1), not {alpha:g}")
    if not 0 <= delta < 1:
        raise UnlearningError(f"delta must be in [0, 1), not {delta:g}")
    secret = secret if isinstance(secret, Secret) else Secret.read(secret)
    if commitment is not None:
        secret.check(commitment)
    if sealed is not None:
        check_sealed(secret, sealed)
    if not isinstance(scores, Mapping):
        scores = read_scores(Path(scores), "score" if higher_means_member else "loss")
    losses = _losses(secret, scores, -1.0 if higher_means_member else 1.0)
    # Equal losses stay in the order of the ids, on which the coins do not depend.
    ranked = sorted(secret.canaries, key=lambda canary: losses[canary.id])
    verified = commitment is not None or sealed is not None
    return Judgement.of([canary.planted for canary in ranked], alpha, delta, secret.commitment, verified)


def guesses_of(ranking: Sequence[bool], alpha: float, delta: float) -> tuple[Guesses, ...]:
    """Return all declared tests, each at its part of alpha.

    Args:
        ranking: Whether each canary was in, from the one that looks most like a member to the one that looks least.
        alpha: Error rate of all tests together.
        delta: In [0, 1).
    """
    total, tests = len(ranking), []
    level = alpha / (2 * len(SHARES))
    for share in SHARES:
        half = max(1, int(share * total / 2))
        right = sum(ranking[:half]) + half - sum(ranking[-half:])
        needed = _needed(total, 2 * half, level, delta)
        for reverse in (False, True):
            hits = 2 * half - right if reverse else right
            tests.append(
                Guesses(
                    2 * half, hits, reverse, needed, one_run_eps(total, 2 * half, hits, level, delta),
                    eps_lower_single(_tail(hits, 2 * half), level, delta),
                )
            )  # fmt: skip
    return tuple(tests)


def read_scores(path: Path, column: str) -> dict[str, float]:
    """Return the scores in a CSV file, by id.

    Raises:
        UnlearningError: A column is missing, a canary is there twice, or a score is not a number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise UnlearningError(f"{path} is missing; give a CSV file with the columns 'canary' and {column!r}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UnlearningError(f"{path} is not a CSV file in UTF-8 ({error})") from None
    header = rows[0] if rows else []
    if "canary" not in header or column not in header:
        other = ", or give --higher-means-member for scores" if column == "loss" and "score" in header else ""
        raise UnlearningError(f"{path} needs the columns 'canary' and {column!r} in its first line{other}")
    found: dict[str, float] = {}
    for row in rows[1:]:
        if not row:
            continue
        fields = dict(zip(header, row, strict=False))
        name, text = fields.get("canary", ""), fields.get(column, "")
        if name in found:
            raise UnlearningError(f"{path} has the canary {name} twice; one row for each is needed")
        try:
            found[name] = float(text)
        except ValueError:
            raise UnlearningError(
                f"the {column} of canary {name} in {path} is {text!r}, which is not a number"
            ) from None
    return found


def _losses(secret: Secret, scores: Mapping[str, float], sign: float) -> dict[str, float]:
    """Return a loss for each canary; lower for members."""
    known = [canary.id for canary in secret.canaries]
    if missing := listed(set(known) - set(scores)):
        raise UnlearningError(f"the scores lack the canaries {missing}; score each canary once")
    if unknown := listed(set(scores) - set(known)):
        raise UnlearningError(f"the scores have the canaries {unknown}, which this secret file does not have")
    losses = {name: sign * float(scores[name]) for name in known}
    if bad := [name for name, loss in losses.items() if math.isnan(loss)]:
        raise UnlearningError(f"the score of canary {bad[0]} is NaN; a model that diverged cannot be judged")
    return losses


def _tail(right: int, made: int) -> float:
    """Return the probability of so many right guesses by chance; at least 1e-300, so that its logarithm is finite."""
    from scipy.special import bdtrc

    return max(float(bdtrc(right - 1, made, 0.5)) if right else 1.0, 1e-300)


@lru_cache
def _needed(total: int, made: int, level: float, delta: float) -> int | None:
    """Return the least number of right guesses with a bound above 0, or None."""
    if one_run_eps(total, made, made, level, delta) == 0:
        return None
    low, high = made // 2, made  # of which the second one shows something
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if one_run_eps(total, made, middle, level, delta) > 0 else (middle, high)
    return high


def at_least(epsilon: float) -> str:
    """Return a lower bound in words, rounded down."""
    return f"at least {math.floor(100 * epsilon) / 100:g}" if epsilon >= 0.01 else "above 0"
