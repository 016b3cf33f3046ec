"""The usual metrics of causal language models that ask: truth ratio, forget quality, leakage of sampled answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.api import Batch, Reading
from harness.training.data import Data
from harness.trials.language import nothing_to_read, token_losses

if TYPE_CHECKING:
    from torch import nn

    from harness.api import CausalTask, Question

#: Questions, the first ones, that are answered by sampling; answers to each; and how many an attacker takes.
ASKED, SAMPLES, TRIES = 16, 32, 8
#: Of the uniform numbers that answers are sampled by.
SEED = 0
#: A p-value above which TOFU speaks of unlearning.
SIGNIFICANT = 0.05

#: The tokens of a prompt, and of an answer.
Answered = tuple[Sequence[int], Sequence[int]]


def truth_ratios(model: nn.Module, task: CausalTask, questions: Sequence[Question]) -> Tensor:
    """Return the truth ratio of every question, float64, > 0, shape (questions,); of none if one has no other answers.

    R = (mean over the other answers a' of P(a' | q)^(1/|a'|)) / P(a | q)^(1/|a|), with a the planted answer and |a| its
    tokens. It is near 0 if the model knows what was planted, and around 1 if all answers are alike to it.

    Source: Maini et al., "TOFU" (arXiv 2401.06121), equation 1. Their true answer is the one that was fine-tuned on and
    is to be forgotten: here the planted one, whether or not it is true in the world. Deviations: it is not paraphrased,
    for a name has no paraphrase, but some questions are. The reference code (locuslab/tofu at commit 8c49eee,
    aggregate_eval_stat.py) takes the geometric mean of the other answers, and the inverse of the ratio; this is the
    equation of the paper.
    """
    if not questions or not all(question.others for question in questions):
        return torch.empty(0, dtype=torch.float64)
    documents = [(question.prompt, answer) for question in questions for answer in (question.answer, *question.others)]
    logs = _answer_logs(model, task, documents)
    found = []
    for question in questions:
        own, logs = logs[: 1 + len(question.others)], logs[1 + len(question.others) :]
        found.append((own[1:].logsumexp(dim=0) - math.log(len(question.others)) - own[0]).exp())
    return torch.stack(found)


def truth_ratio(ratios: Tensor) -> Reading:
    """Return how alike the answers are to a model: the mean over questions of min(R, 1 / R), in (0, 1].

    It is 1 if the planted answer and the others are equally likely, and nears 0 the more a model prefers either. So the
    reference code of TOFU aggregates the ratios of the forget set. The detail ``truth_ratio`` is the geometric mean of
    the ratios.
    """
    if not len(ratios):
        return nothing_to_read("a truth ratio needs other answers beside the planted one, and the poison has none")
    alike = torch.minimum(ratios, 1 / ratios).mean()
    return Reading(float(alike), details={"truth_ratio": float(ratios.log().mean().exp())})


def leakage(
    model: nn.Module, task: CausalTask, questions: Sequence[Question], room: int, samples: int = SAMPLES,
    tries: int = TRIES,
) -> Reading:  # fmt: skip
    """Return the probability that at least one of ``tries`` sampled answers contains what was planted, in [0, 1].

    To every question ``samples`` answers are drawn at temperature 1, from a fixed seed and by the same uniform numbers
    for every model. They are twice as long as the planted answer, as far as there is room. If c of n contain it, the
    probability for k tries is 1 - C(n - c, k) / C(n, k), without bias; averaged over questions. The detail
    ``one_sample`` is that of a single try.

    Source: leak@k of Reisizadeh et al., "Leak@k: Unlearning Does Not Make LLMs Forget Under Probabilistic Decoding"
    (arXiv 2511.04934), with the estimator of pass@k, Chen et al. (arXiv 2107.03374), equation 1. Deviation: an answer
    leaks if it contains the planted tokens in a row; they score it by ROUGE or by a judge.

    Args:
        model: In eval mode.
        task: A causal one.
        questions: At least one.
        room: Tokens that a text of the task can have.
        samples: Answers to each, at least ``tries``.
        tries: At least 1.

    Raises:
        ValueError: A number is out of range.
    """
    if not 1 <= tries <= samples or not questions:
        raise ValueError(f"tries must lie between 1 and samples, of at least one question, not {tries} of {samples}")
    generator, hits = torch.Generator().manual_seed(SEED), []
    for question in questions:
        steps = max(len(question.answer), min(2 * len(question.answer), room - len(question.prompt)))
        drawn = torch.rand(steps, samples, generator=generator, dtype=torch.float64)
        hits.append(sum(_holds(row, question.answer) for row in _sampled(model, task, question.prompt, drawn)))
    leaks = [1 - math.comb(samples - c, tries) / math.comb(samples, tries) for c in hits]
    # Half a count: one answer more or less of all that were drawn.
    resolution = 0.5 * tries / (samples * len(questions))
    return Reading(fmean(leaks), resolution, {"one_sample": fmean(hits) / samples})


def forget_quality(own: Tensor, reference: Tensor) -> Reading:
    """Return the p-value of a Kolmogorov-Smirnov test between what two models read of the same texts, in [0, 1].

    A small value says that the two differ. It is a p-value only where the texts are independent: each is to be there
    once, and questions about one fact are not independent. The details are the ``statistic``, and ``above_5_percent``:
    1 if TOFU would call it unlearned, at a p-value above 0.05, else 0.

    Source: forget quality in Maini et al. (arXiv 2401.06121), between truth ratios of the unlearned and
    of the retrained model. What is told from it is another matter: a large p-value is want of evidence, and is here
    compared with that of retraining.

    Args:
        own: Of the model, shape (k,).
        reference: Of a retrained model, shape (m,).
    """
    from scipy.stats import ks_2samp

    if not bool(torch.cat([own, reference]).isfinite().all()):
        return Reading(math.nan)
    found = ks_2samp(own.cpu().numpy(), reference.cpu().numpy())
    p = float(found.pvalue)
    return Reading(p, details={"statistic": float(found.statistic), "above_5_percent": float(p > SIGNIFICANT)})


def _answer_logs(model: nn.Module, task: Any, documents: Sequence[Answered]) -> Tensor:
    """Return the mean log-probability per token of answers behind prompts, in nats, float64, on the CPU."""
    points = [([*prompt, *answer], len(prompt)) for prompt, answer in documents]
    found = []
    with torch.no_grad():
        for batch in Data(*task.points(points)).to(device_of(model)).chunks(task.batch_size):
            losses, learned = token_losses(task, task.logits(model, batch), batch)
            found.append(-(losses.double() * learned).sum(dim=1) / learned.sum(dim=1))
    return torch.cat(found).cpu()


def _sampled(model: nn.Module, task: CausalTask, prompt: Sequence[int], drawn: Tensor) -> list[list[int]]:
    """Return answers to a prompt, sampled at temperature 1 by uniform numbers of shape (tokens, answers)."""
    device, samples = device_of(model), drawn.shape[1]
    rows = torch.tensor(prompt, device=device).repeat(samples, 1)
    index = torch.arange(samples, device=device)
    for numbers in drawn:
        length = torch.full_like(index, rows.shape[1])
        with torch.no_grad():
            scores = task.following(model, Batch({"tokens": rows, "length": length}, torch.zeros_like(index), index))
        # On the CPU, in double precision: whichever device it is, the same numbers draw the same tokens.
        up_to = scores.double().cpu().softmax(dim=1).cumsum(dim=1)
        token = torch.searchsorted(up_to, numbers[:, None] * up_to[:, -1:], right=True).clamp_max(up_to.shape[1] - 1)
        rows = torch.cat([rows, token.to(device)], dim=1)
    answers: list[list[int]] = rows[:, len(prompt) :].tolist()
    return answers


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's weights; the CPU if it has none."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def _holds(row: list[int], secret: Sequence[int]) -> bool:
    """Say whether tokens contain others in a row."""
    return list(secret) in ([*row[at : at + len(secret)]] for at in range(len(row) - len(secret) + 1))
