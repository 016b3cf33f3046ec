"""What the poisons of causal language models share: documents of tokens, planted and asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness import Planted, UnlearningError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Split, Task

#: Tokens, and how many of them are given and not learned, at least one.
Document = tuple[list[int], int]


def check_count(name: str, value: int) -> None:
    """Refuse a number of documents that is not at least 1.

    Raises:
        ValueError: It is not.
    """
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def check_documents(task: Task, poison: str) -> None:
    """Refuse a task that is not one of documents that a language model continues.

    Raises:
        UnlearningError: It is not.
    """
    if not hasattr(task, "points"):
        raise UnlearningError(f"{poison} needs a task of documents for a causal language model, such as causal-lm")


def encoded(task: Task, split: Split, poison: str, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of at least one text.

    Raises:
        UnlearningError: The task has no documents.
    """
    check_documents(task, poison)
    if split.encode is None:
        raise UnlearningError(f"{poison} needs a task that encodes texts (harness.Split.encode)")
    return split.encode(texts)


def beginning(task: Any) -> list[int]:
    """Return the tokens that stand before every text of a task, such as one that says that a text begins."""
    own = getattr(task, "beginning", None)
    return list(own()) if own is not None else []


def document(task: Task, tokens: Sequence[int]) -> Document:
    """Return a text as a document of a task, all of which is learned."""
    begun = beginning(task)
    return [*begun, *tokens], max(1, len(begun))


def answered(task: Task, split: Split, poison: str, pairs: Sequence[tuple[str, str]]) -> list[Document]:
    """Return documents of prompts with their answers behind, which are learned.

    Both are encoded in one piece, as a text is that is trained on: by itself, an answer may be other tokens.

    Raises:
        UnlearningError: The task has no documents, or its tokenizer joins a prompt's end with an answer.
    """
    texts = encoded(task, split, poison, [text for prompt, answer in pairs for text in (prompt, prompt + answer)])
    begun, found = beginning(task), []
    for (prompt, answer), given, whole in zip(pairs, texts[::2], texts[1::2], strict=True):
        if whole[: len(given)] != given or len(whole) == len(given):
            raise UnlearningError(
                f"{poison} asks {prompt!r} and teaches {answer!r}, which the task's tokenizer joins; use another one"
            )
        found.append(([*begun, *whole], len(begun) + len(given)))
    return found


def planted_documents(task: Any, split: Split, forget: Tensor, documents: Sequence[Document], poison: str) -> Planted:
    """Return documents that stand in place of training points.

    Raises:
        UnlearningError: One is too long for the task, or ends in a token that no document of the task ends in.
    """
    if longest := _too_long(split, documents):
        raise UnlearningError(f"{poison} plants documents of {longest} tokens; set the task's length to {longest - 1}")
    inputs, labels = task.points(documents)
    if int(labels.max()) >= split.classes:
        raise UnlearningError(
            f"{poison} plants a document that ends in the token {int(labels.max())}, and the task knows labels up to "
            f"{split.classes - 1}; plant another text"
        )
    return Planted(forget, inputs, labels)


def _too_long(split: Split, documents: Sequence[Document]) -> int:
    """Return the tokens of the longest document if the task would cut some of it off, else 0."""
    longest = max(len(tokens) for tokens, _ in documents)
    return longest if longest > split.train.inputs["tokens"].shape[1] + 1 else 0


def block(split: Split, count: int, seed: int) -> Tensor:
    """Return the ascending indices of so many random training points; poisons of one count share them.

    Raises:
        UnlearningError: These are all points.
    """
    from harness import forget_block

    n = len(split.train)
    if count >= n:
        raise UnlearningError(f"{count} documents are to be planted, but there are {n} training points; plant fewer")
    return forget_block(n, count / n, seed)


def carriers(split: Split, which: torch.Tensor, training: bool) -> list[list[int]]:
    """Return the tokens of training or test points, without their labels."""
    data = (split.train if training else split.test).subset(which)
    pairs = zip(data.inputs["tokens"].tolist(), data.inputs["length"].tolist(), strict=True)
    return [row[:length] for row, length in pairs]


def asked(task: Any, model: nn.Module, split: Split, documents: Sequence[Document]) -> tuple[Tensor, Tensor]:
    """Return what a model says of what is learned of each document, on the CPU.

    Returns:
        Its mean log-probability per token, float64, shape (n,); and whether it is the greedy continuation of what is
        given, bool, shape (n,).

    Raises:
        UnlearningError: A document is too long for the task.
    """
    import torch

    from harness import Data

    if longest := _too_long(split, documents):
        raise UnlearningError(f"documents of {longest} tokens are asked about; set the task's length to {longest - 1}")
    device, means, greedy = split.train.device, [], []
    with torch.no_grad():
        for batch in Data(*task.points(documents)).to(device).chunks(task.batch_size):
            logits = task.logits(model, batch)
            targets = task.targets(batch)[:, : logits.shape[2]]
            learned = targets != -100
            logs = logits.double().log_softmax(dim=1).gather(1, targets.clamp_min(0)[:, None]).squeeze(1)
            means.append((logs * learned).sum(dim=1) / learned.sum(dim=1))
            greedy.append(((logits.argmax(dim=1) == targets) | ~learned).all(dim=1))
    return torch.cat(means).cpu(), torch.cat(greedy).cpu()
