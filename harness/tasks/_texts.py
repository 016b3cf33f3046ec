"""What the tasks on reviews read: reviews, tokenizers, published weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import UnlearningError
from harness.tasks._hub import missing, quietly, transformers
from harness.tasks._tables import rows_of

HUB = "stanfordnlp/imdb"
#: What is loaded, and what to do if it cannot be, for `quietly`.
GPT2 = (
    "GPT-2",
    "give model=DIR with its weights in a folder, a network to the hub, or model=scratch (--task=imdb-gpt2-small) for "
    "a small one that needs none",
)
END = "<|endoftext|>"
#: What a causal model is asked after a review, and its two answers, by label.
PROMPT = " The sentiment of the review is:"
ANSWERS = (" negative", " positive")


def reviews(folder: Path | None) -> Any:
    """Return both splits of the data set.

    Raises:
        UnlearningError: It cannot be had, or lacks a split or a column.
    """
    try:
        import datasets
    except ImportError:
        raise missing("datasets") from None
    source = HUB if folder is None else str(folder / "imdb")
    datasets.disable_progress_bars()  # they would break what the terminal shows of the run
    try:
        found = datasets.load_dataset(source)
    except Exception as error:  # no network, no folder, no parquet: each raises something of its own
        raise UnlearningError(
            f"IMDb cannot be read from {source} ({type(error).__name__}); give --audit-data DIR with the data set in "
            "DIR/imdb, or a network to the hub"
        ) from error
    return {name: rows_of(found, name, (("text",), ("label",)), source) for name in ("train", "test")}


def shuffled(rows: Any, size: int | None) -> Any:
    """Return the first rows of a fixed random order; the hub's begins with one class."""
    import torch

    size = len(rows) if size is None else size
    if size > len(rows):
        raise UnlearningError(f"imdb-gpt2 is to read {size} reviews of a split that has {len(rows)}; lower the size")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows.select(order[:size].tolist())


def texts_of(rows: Any, source: str) -> list[str]:
    """Return the texts of rows.

    Raises:
        UnlearningError: One of them is none.
    """
    texts = list(rows["text"])
    wrong = next((each for each in texts if not isinstance(each, str)), "")
    if not isinstance(wrong, str):
        raise UnlearningError(f"the column 'text' of {source} holds {wrong!r}; reviews must be texts")
    return texts


def learned_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Return a byte-pair encoding learned from texts; its first tokens are the end, the prompt and the answers."""
    try:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise missing("tokenizers") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END, PROMPT, *ANSWERS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@lru_cache
def pretrained_tokenizer(name: str) -> Any:
    """Return the tokenizer of published weights."""
    return quietly(lambda: transformers().AutoTokenizer.from_pretrained(name), *GPT2)


@lru_cache
def pretrained_tokens(name: str, text: str) -> tuple[int, ...]:
    """Return the tokens of a text."""
    return tuple(pretrained_tokenizer(name)(text)["input_ids"])


@lru_cache
def pretrained_width(name: str) -> int:
    """Return the width of the embeddings of published weights."""
    width: int = quietly(lambda: transformers().AutoConfig.from_pretrained(name), *GPT2).n_embd
    return width
