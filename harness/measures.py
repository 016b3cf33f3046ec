"""Measures that every task has, and those of causal language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api import Batch, Measure, Reading, predicted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Task
    from harness.data import Data

#: Utility: test accuracy, judged by non-inferiority to retraining within the task's margin.
ACCURACY = Measure("accuracy", "test accuracy", worse="lower", test="non-inferiority", unit="%")

#: Compute that an unlearner used, as a fraction of retraining; a bound, without a test.
COST = Measure("cost", "compute, of retraining", worse="higher", test="budget", unit="%")


#: What the usual metrics measure, by the name that an audit of them claims; `harness.heuristics` computes them.
HEURISTICS = {
    "membership": Measure("membership_auc", "membership inference by loss (AUC)", worse="higher", test="retention"),
    "likelihood": Measure(
        "likelihood_auc", "membership inference by likelihood ratio (AUC)", worse="higher", test="retention"
    ),
    "forget-accuracy": Measure(
        "forget_accuracy", "accuracy on the poisoned points as labelled", worse="higher", test="retention", unit="%"
    ),
    "agreement": Measure(
        "agreement", "agreement with a retrained model", worse="lower", test="non-inferiority", unit="%"
    ),
    "retain-accuracy": Measure(
        "retain_accuracy", "accuracy on the kept points", worse="lower", test="non-inferiority", unit="%"
    ),
}


def accuracy(model: nn.Module, task: Task, data: Data) -> Reading:
    """Return the share of examples whose most likely class is their label, in [0, 1]."""
    import torch

    with torch.no_grad():
        correct = sum(int((predicted(task, model, batch) == batch.labels).sum()) for batch in data.chunks())
    return Reading(correct / len(data), resolution=0.5 / len(data))


def memorisation_accuracy(model: nn.Module, task: Task, data: Data) -> Reading:
    """Return how much of its texts a causal language model continues word by word, in [0, 1].

    For a text x_1 ... x_T, the share of t = 2 ... T at which x_t is the likeliest token after x_1 ... x_(t-1); averaged
    over texts. Tokens are those of the input, without what the task asks behind them.

    Source: Jang et al., "Knowledge Unlearning for Mitigating Privacy Risks in Language Models" (arXiv 2210.01504),
    equation 3. Texts of one token have no such t and are left out.
    """
    import torch

    shares: list[Tensor] = []
    with torch.no_grad():
        for batch in data.chunks(64):
            tokens, length = batch.inputs["tokens"], batch.inputs["length"]
            likeliest = task.logits(model, batch).argmax(dim=1)[:, : int(length.max()) - 1]
            following = tokens[:, 1 : likeliest.shape[1] + 1]
            asked = torch.arange(likeliest.shape[1], device=tokens.device) < length[:, None] - 1
            right = ((likeliest == following) & asked).sum(dim=1) / (length - 1)
            shares.append(right[length > 1])
    share = torch.cat(shares)
    return Reading(float(share.mean()) if len(share) else float("nan"))


def extraction_likelihood(model: nn.Module, task: Task, data: Data, n: int = 10) -> Reading:
    """Return how much of its texts a causal language model gives away when it is shown their beginnings, in [0, 1].

    For a text x of T tokens and every p = 1 ... T - n, the model continues x_1 ... x_p greedily to T tokens; of the
    n-grams of x_(p+1) ... x_T, the share that is found in the continuation; averaged over p, then over texts. Costs
    about T^2 / 2 passes of one token for each text: meant for a few hundred texts.

    Args:
        model: In eval mode.
        task: A causal one.
        data: The texts.
        n: Tokens of an n-gram, at least 1.

    Source: Jang et al. (arXiv 2210.01504), equations 1 and 2. The share is taken of distinct n-grams. Texts of n tokens
    and less are left out.

    Raises:
        ValueError: ``n`` is out of range.
    """
    import torch

    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    likelihoods = []
    for text in data.chunks(1):
        total = int(text.inputs["length"])
        if total <= n:
            continue
        tokens = text.inputs["tokens"][0, :total]
        begun = torch.arange(1, total - n + 1, device=tokens.device)  # how much each row is shown
        rows = tokens.expand(len(begun), -1) * (torch.arange(total, device=tokens.device) < begun[:, None])
        others = {k: t.expand(len(begun), *t.shape[1:]) for k, t in text.inputs.items()}
        for length in range(1, total):
            shown = begun <= length  # these rows are continued by their next token
            inputs = {k: t[shown] for k, t in others.items()}
            inputs |= {"tokens": rows[shown][:, :length], "length": torch.full_like(begun[shown], length)}
            step = Batch(inputs, text.labels.expand(len(begun))[shown], begun[shown])
            with torch.no_grad():
                rows[shown, length] = task.logits(model, step)[:, :, length - 1].argmax(dim=1)
        truth, told = tokens.tolist(), rows.tolist()
        shares = []
        for p, row in zip(begun.tolist(), told, strict=True):
            grams = _grams(truth[p:], n)
            shares.append(len(grams & _grams(row[p:], n)) / len(grams))
        likelihoods.append(sum(shares) / len(shares))
    return Reading(sum(likelihoods) / len(likelihoods) if likelihoods else float("nan"))


def _grams(tokens: list[int], n: int) -> set[tuple[int, ...]]:
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}
