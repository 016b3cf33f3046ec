"""From scores to a bound: what is guessed, what is proven, and how often wrongly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.api import UnlearningError
from harness.canaries import Canary, Secret, judge
from harness.canaries.judgement import SHARES, guesses_of, read_scores
from harness.canaries.secret import toss
from harness.statistics import one_run_eps

LEVEL = 0.05 / 2 / len(SHARES)


def secret_of(coins, seed="1"):
    canaries = tuple(Canary(f"c{i:03}", coin, i if coin else None, {"x": i}) for i, coin in enumerate(coins))
    return Secret(seed, "csv", {"delimiter": ","}, {}, {}, {}, canaries)


@pytest.fixture
def secret():
    return secret_of(toss("1", 200))


def scores(secret, shift, seed=0):
    rng = np.random.default_rng(seed)
    return {canary.id: float(rng.normal() - shift * canary.planted) for canary in secret.canaries}


def test_a_model_that_remembers_is_shown_to(secret):
    found = judge(secret, scores(secret, 3))
    assert found.shown
    assert found.best.made in (200, 100, 50)
    assert found.epsilon == max(one_run_eps(200, t.made, t.right, LEVEL) for t in found.tests) > 1
    assert found.source_epsilon > found.epsilon
    first, *_, last = found.sentences()
    assert first.startswith(
        f"{found.best.right} of {found.best.made} guesses were right; by chance, {found.best.made // 2} are"
    )
    assert "with 95 % confidence epsilon is at least" in first
    assert first.endswith("what the source taught is still there.")
    assert last == "This can prove that something is left, never that nothing is."


def test_a_model_that_knows_nothing_is_not_acquitted(secret):
    found = judge(secret, scores(secret, 0))
    (sentence,) = found.sentences()
    assert not found.shown
    assert found.best.made == 200
    assert "by chance, 100 are expected. 118 right guesses would have proven that something is left" in sentence
    assert sentence.endswith("Nothing was shown. This does not prove that nothing is left.")


def test_the_needed_number_is_the_least_that_shows_something(secret):
    for test in judge(secret, scores(secret, 0)).tests:
        assert (
            one_run_eps(200, test.made, test.needed, LEVEL) > 0 == one_run_eps(200, test.made, test.needed - 1, LEVEL)
        )
    few = secret_of(toss("1", 20))
    assert [test.needed for test in judge(few, scores(few, 0)).tests][-1] is None  # 4 guesses


def test_a_removal_that_overshoots_is_found(secret):
    found = judge(secret, scores(secret, -3))
    assert found.shown
    assert found.best.reverse
    assert found.sentences()[0].startswith("Guessed the other way round, ")
    assert "the removal overshot" in found.sentences()[0]
    assert "--higher-means-member" in found.sentences()[1]
    assert judge(secret, {name: -loss for name, loss in scores(secret, -3).items()}).epsilon == found.epsilon


def test_all_right_guesses_give_what_the_paper_gives():
    # Without delta, v = r right guesses reject e^eps / (1 + e^eps) <= alpha^(1 / r).
    for made in (10, 50):
        share = LEVEL ** (1 / made)
        assert one_run_eps(made, made, made, LEVEL, 0) == pytest.approx(math.log(share / (1 - share)))
    best = max(guesses_of([True] * 50 + [False] * 50, 0.05, 1e-12), key=lambda test: test.epsilon)
    share = LEVEL ** (1 / 100)
    assert best.epsilon == pytest.approx(math.log(share / (1 - share)), rel=1e-6)
    assert best.source_epsilon == pytest.approx(math.log(LEVEL) + 100 * math.log(2))


@given(st.lists(st.booleans(), min_size=20, max_size=120))
def test_a_ranking_turned_round_turns_the_tests_round(ranking):
    there, back = guesses_of(ranking, 0.05, 1e-5), guesses_of(ranking[::-1], 0.05, 1e-5)
    for (ahead, behind), (other_ahead, other_behind) in zip(
        zip(there[::2], there[1::2], strict=True), zip(back[::2], back[1::2], strict=True), strict=True
    ):
        assert ahead.made == behind.made == ahead.right + behind.right
        assert (ahead.right, ahead.epsilon) == (other_behind.right, other_behind.epsilon)
        assert (behind.right, behind.epsilon) == (other_ahead.right, other_ahead.epsilon)


@given(st.lists(st.booleans(), min_size=20, max_size=80), st.integers(0, 1000))
def test_only_the_order_of_scores_counts(coins, seed):
    secret = secret_of(coins)
    losses = scores(secret, 1, seed)
    found = judge(secret, losses)
    assert judge(secret, {name: math.exp(3 * loss) for name, loss in losses.items()}) == found
    assert judge(secret, {name: -loss for name, loss in losses.items()}, higher_means_member=True) == found
    assert judge(secret, dict(reversed(losses.items()))) == found


def test_equal_scores_show_nothing(secret):
    assert not judge(secret, dict.fromkeys(scores(secret, 0), 0.0)).shown
    infinite = {name: loss if loss < 1 else math.inf for name, loss in scores(secret, 3).items()}
    assert judge(secret, infinite).shown


@pytest.mark.parametrize("number", [20, 50, 200])
def test_a_model_that_never_saw_the_coins_is_wronged_in_at_most_5_percent(number):
    ranks = np.random.default_rng(0).permutation(number)
    shown = [
        max(test.epsilon for test in guesses_of(np.array(toss(f"{number} {draw}", number))[ranks].tolist(), 0.05, 1e-5))
        > 0
        for draw in range(1000)
    ]
    # If the rate were 0.05, more than 71 of 1,000 would come up once in 1,000 times.
    assert sum(shown) <= stats.binom.ppf(0.999, 1000, 0.05)


def test_randomised_response_is_wronged_in_at_most_5_percent():
    """The bound is exact for this mechanism: each coin is reported rightly with probability e^eps / (1 + e^eps)."""
    rng, true = np.random.default_rng(0), 1.0
    right = math.exp(true) / (1 + math.exp(true))
    too_large = 0
    for _ in range(400):
        coins = rng.random(100) < 0.5
        reported = np.where(rng.random(100) < right, coins, ~coins)
        ranking = coins[np.argsort(~reported, kind="stable")]
        too_large += max(test.epsilon for test in guesses_of(ranking.tolist(), 0.05, 0.0)) > true
    assert too_large <= stats.binom.ppf(0.999, 400, 0.05)


def test_scores_are_read_from_a_file(secret, tmp_path):
    path = tmp_path / "scores.csv"
    losses = scores(secret, 3)
    path.write_text("note,canary,loss\n" + "".join(f"x,{name},{loss!r}\n" for name, loss in losses.items()) + "\n")
    assert judge(secret, path) == judge(secret, losses)
    path.write_text("canary,score\n" + "".join(f"{name},{-loss!r}\n" for name, loss in losses.items()))
    assert judge(secret, path, higher_means_member=True) == judge(secret, losses)
    with pytest.raises(
        UnlearningError, match="needs the columns 'canary' and 'loss' in its first line, or give --higher"
    ):
        judge(secret, path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "needs the columns 'canary' and 'loss' in its first line$"),
        ("id,loss\nc1,2\n", "needs the columns 'canary' and 'loss' in its first line$"),
        ("canary,loss\nc1,2\nc1,3\n", "has the canary c1 twice; one row for each is needed"),
        ("canary,loss\nc1,high\n", "the loss of canary c1 in .* is 'high', which is not a number"),
        ("canary,loss\nc1\n", "the loss of canary c1 in .* is '', which is not a number"),
    ],
)
def test_a_bad_file_of_scores_is_refused(tmp_path, content, sentence):
    path = tmp_path / "scores.csv"
    path.write_text(content)
    with pytest.raises(UnlearningError, match=sentence):
        read_scores(path, "loss")


def test_scores_must_be_one_number_for_each_canary(secret):
    losses = scores(secret, 0)
    with pytest.raises(UnlearningError, match="the scores lack the canaries c000, c001, c002, c003, c004 and 5 more"):
        judge(secret, dict(list(losses.items())[10:]))
    with pytest.raises(
        UnlearningError, match="the scores have the canaries zebra, which this secret file does not have"
    ):
        judge(secret, losses | {"zebra": 1.0})
    with pytest.raises(
        UnlearningError, match="the score of canary c007 is NaN; a model that diverged cannot be judged"
    ):
        judge(secret, losses | {"c007": math.nan})


def test_a_judgement_says_whether_the_list_was_compared(secret):
    assert not judge(secret, scores(secret, 0)).verified
    assert judge(secret, scores(secret, 0), commitment=secret.commitment).verified
    with pytest.raises(UnlearningError, match="this is not the list that was sealed"):
        judge(secret_of(toss("2", 200), "2"), scores(secret, 0), commitment=secret.commitment)
