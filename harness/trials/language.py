"""The usual metrics of causal language models: what they give away of the poisoned texts, and what they keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.api import Batch, Reading, classes_of
from harness.training.data import Data

if TYPE_CHECKING:
    from torch import nn

    from harness.api import CausalTask

#: Poisoned texts, the first ones, that a model is made to continue: this is far dearer than the other metrics.
EXTRACTED = 16
TEXTS_AT_ONCE = 8  # that are continued in one pass, from every beginning


def whole(task: CausalTask, data: Data) -> Data:
    """Return texts with all their tokens among the inputs: of some tasks the last one is the label."""
    texts = getattr(task, "texts", None)
    if texts is None:
        return data
    return Data(texts(data.batch(torch.arange(len(data)))).inputs, data.labels)


def distinct(data: Data) -> Tensor:
    """Return the first of each lot of points that are equal, inputs and label, as an ascending int64 index.

    What is planted several times is one text: to count it several times would say nothing more, and make a test on
    independent numbers find too much.
    """
    tensors = [each.cpu().contiguous() for each in (*data.inputs.values(), data.labels)]
    first: dict[bytes, int] = {}
    for at in range(len(data)):
        first.setdefault(b"".join(each[at].numpy().tobytes() for each in tensors), at)
    return torch.tensor(list(first.values()), dtype=torch.int64)


def memorisation_accuracy(model: nn.Module, task: CausalTask, data: Data) -> Reading:
    """Return how much of its texts a causal language model continues word by word, in [0, 1].

    For a text x_1 ... x_T, the share of t = 2 ... T at which x_t is the likeliest token after x_1 ... x_(t-1); averaged
    over texts. Tokens are those of the text, without what the task asks behind them.

    Source: Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models" (arXiv 2210.01504),
    equation 3, after Tirumala et al., "Memorization Without Overfitting" (arXiv 2205.10770), who take the share over
    all tokens of all texts. ``exact_memorization`` of open-unlearning (locuslab/open-unlearning at commit 2db47ec) is
    the same number for texts that are learned from the second token on; of pairs it leaves the prompts out. Texts of
    one token have no such t and are left out.
    """
    shares: list[Tensor] = []
    steps: list[Tensor] = []
    with torch.no_grad():
        for batch in data.chunks(task.batch_size):
            texts = _texts(task, batch)
            tokens, length = texts["tokens"], texts["length"]
            likeliest = task.logits(model, batch).argmax(dim=1)[:, : int(length.max()) - 1]
            following = tokens[:, 1 : likeliest.shape[1] + 1]
            asked = torch.arange(likeliest.shape[1], device=tokens.device) < length[:, None] - 1
            right = ((likeliest == following) & asked).sum(dim=1) / (length - 1)
            shares.append(right[length > 1])
            steps.append(1 / (length[length > 1] - 1))
    share = torch.cat(shares)
    if not len(share):
        return nothing_to_read("no poisoned text has two tokens")
    return Reading(float(share.mean()), _half_a_count(torch.cat(steps).tolist()))


def extraction_likelihood(model: nn.Module, task: CausalTask, data: Data, n: int = 10) -> Reading:
    """Return how much of its texts a causal language model gives away when it is shown their beginnings, in [0, 1].

    For a text x of T tokens and every p = 1 ... T - n, the model continues x_1 ... x_p greedily to T tokens; of the
    n-grams of the continuation, each as often as it occurs, the share that is found in x_(p+1) ... x_T; averaged over
    p, then over texts. Costs about T^2 / 2 passes for each text: meant for a few texts.

    Args:
        model: In eval mode.
        task: A causal one.
        data: The texts, as `whole` returns them.
        n: Tokens of an n-gram, at least 1.

    Source: Jang et al. (arXiv 2210.01504), equations 1 and 2. Texts of n tokens and less are left out.

    Raises:
        ValueError: ``n`` is out of range.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    likelihoods, steps = [], []
    long = (data.inputs["length"] > n).nonzero().squeeze(1)
    for texts in data.subset(long).chunks(TEXTS_AT_ONCE):
        totals = texts.inputs["length"].tolist()
        shown = [(text, p) for text, total in enumerate(totals) for p in range(1, total - n + 1)]
        continued = _continued(model, task, texts, shown)
        shares: list[list[float]] = [[] for _ in totals]
        counts: list[list[float]] = [[] for _ in totals]
        for (text, p), row in zip(shown, continued, strict=True):
            truth = texts.inputs["tokens"][text, : totals[text]].tolist()
            true, told_here = set(_grams(truth[p:], n)), _grams(row[p : totals[text]], n)
            shares[text].append(sum(gram in true for gram in told_here) / len(told_here))
            counts[text].append(1 / len(told_here))
        likelihoods += [fmean(each) for each in shares]
        steps += [fmean(each) / len(each) for each in counts]
    if not likelihoods:
        return nothing_to_read(f"extraction likelihood needs more than {n} tokens, and no poisoned text has them")
    return Reading(fmean(likelihoods), _half_a_count(steps))


def verbatim(model: nn.Module, task: CausalTask, data: Data) -> Reading:
    """Return the share of the rest of its texts that a model writes when it is shown their beginnings, in [0, 1].

    The model is shown the first half of a text, or what is given of it and not learned (a prompt of two tokens or more;
    a task cannot tell one of a single token from none), and continues greedily by as many tokens as are left. Read is
    the share of these tokens that stand at their place; averaged over texts. The detail ``reproduced`` is the share of
    texts whose rest is written to the last token.

    Source: Carlini et al., "Quantifying Memorization Across Neural Language Models" (arXiv 2202.07646): a text is
    extractable with a prompt of so many tokens if greedy decoding writes the rest. Deviations: they prompt with a fixed
    number of tokens; and a share is judged, because few texts of a short fine-tuning are reproduced whole. Metrics of
    this name elsewhere are others: MUSE takes ROUGE, and open-unlearning `memorisation_accuracy`. Texts of one token
    are left out.

    Args:
        model: In eval mode.
        task: A causal one.
        data: The texts, as `whole` returns them.
    """
    data = data.subset((data.inputs["length"] > 1).nonzero().squeeze(1))
    shares, steps = [], []
    for texts in data.chunks(TEXTS_AT_ONCE):
        totals = texts.inputs["length"].tolist()
        given = texts.inputs["start"].tolist() if "start" in texts.inputs else [1] * len(totals)
        shown = [(text, p if p > 1 else total // 2) for text, (p, total) in enumerate(zip(given, totals, strict=True))]
        truths = texts.inputs["tokens"].tolist()
        for (text, p), row in zip(shown, _continued(model, task, texts, shown), strict=True):
            rest = range(p, totals[text])
            shares.append(sum(row[at] == truths[text][at] for at in rest) / len(rest))
            steps.append(1 / len(rest))
    if not shares:
        return nothing_to_read("no poisoned text has two tokens")
    return Reading(fmean(shares), _half_a_count(steps), {"reproduced": fmean(share == 1 for share in shares)})


def log_perplexity(model: nn.Module, task: CausalTask, data: Data) -> tuple[Reading, Tensor]:
    """Return the logarithm of a model's perplexity on texts, in nats per token, and the class that each is put in.

    The perplexity is exp of the mean loss over all tokens that are learned, as the task's ``learned`` says, of all
    texts together: every token counts alike. The logarithm is judged, because of perplexities ratios are compared; the
    detail ``perplexity`` is the power. The classes, int64, shape (n,), on the CPU, are of the same pass.

    Args:
        model: In eval mode, on the device of the data.
        task: A causal one.
        data: The texts.
    """
    total, tokens, classes = 0.0, 0, []
    with torch.no_grad():
        for batch in data.chunks(task.batch_size):
            logits = task.logits(model, batch)
            classes.append(classes_of(task, logits, batch))
            if hasattr(task, "learned"):
                losses, learned = token_losses(task, logits, batch)
                total += float((losses.double() * learned).sum())
                tokens += int(learned.sum())
    found = torch.cat(classes).cpu()
    if not hasattr(task, "learned"):
        return nothing_to_read("the task does not say which tokens are learned; give it learned(logits, batch)"), found
    if not tokens:
        return nothing_to_read("the kept texts have no token that is learned"), found
    return Reading(total / tokens, details={"perplexity": math.exp(min(total / tokens, 700.0))}), found


def nothing_to_read(why: str) -> Reading:
    """Return the reading of what cannot be read: a finite number, so that no model is said to have diverged."""
    return Reading(0.0, unusable=why)


def _texts(task: CausalTask, batch: Batch) -> Mapping[str, Tensor]:
    """Return the inputs of a batch with all tokens of each text among them."""
    texts = getattr(task, "texts", None)
    inputs: Mapping[str, Tensor] = batch.inputs if texts is None else texts(batch).inputs
    return inputs


def token_losses(task: Any, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the losses of what a task's ``learned`` names, and whether each is learned, of shape (batch, tokens)."""
    scores, targets = task.learned(logits, batch)
    scores = scores.float()
    # Without the probabilities of all other tokens, which would fill as much memory again.
    losses = scores.logsumexp(dim=1) - scores.gather(1, targets.clamp_min(0)[:, None]).squeeze(1)
    return losses, targets != -100


def _half_a_count(steps: Sequence[float]) -> float:
    """Return half of what one token or n-gram more or less changes in a mean of shares, given its step in each."""
    return 0.5 * fmean(steps) / len(steps)


def _continued(
    model: nn.Module, task: CausalTask, texts: Batch, shown: Sequence[tuple[int, int]]
) -> list[list[int]]:  # fmt: skip
    """Return texts that a model continues greedily to their length.

    ``shown`` has the number of a text and how many of its tokens are shown, at least 1, for every continuation.
    """
    of, begun = torch.tensor(shown, device=texts.labels.device).unbind(dim=1)
    rows = texts.inputs["tokens"][of]
    total = texts.inputs["length"][of]
    for length in range(1, int(total.max())):
        # All continuations of all texts that have come this far get their next token in one pass.
        now = ((begun <= length) & (length < total)).nonzero().squeeze(1)
        if not len(now):
            continue
        inputs = {name: each[of[now]] for name, each in texts.inputs.items()}
        inputs |= {"tokens": rows[now, :length], "length": torch.full_like(now, length)}
        with torch.no_grad():
            scores = task.following(model, Batch(inputs, texts.labels[of[now]], now))
        rows[now, length] = scores.argmax(dim=1)
    continued: list[list[int]] = rows.tolist()
    return continued


def _grams(tokens: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
