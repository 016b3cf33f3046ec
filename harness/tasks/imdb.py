"""IMDb reviews with a GPT-2: fine-tuned from published weights, or a small one from scratch that a CPU can train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.tasks._files import files_below
from harness.tasks._hub import quietly, transformers
from harness.tasks._recipe import warmed_up
from harness.tasks._tables import labels_of
from harness.tasks._texts import (
    ANSWERS,
    GPT2,
    PROMPT,
    learned_tokenizer,
    pretrained_tokenizer,
    pretrained_tokens,
    pretrained_width,
    reviews,
    shuffled,
    texts_of,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from harness import Batch, Data, Split

SCRATCH = "scratch"
#: Characters per token that are read; English has four or five to a token.
CHARACTERS = 6


@dataclass(frozen=True)
class IMDbGPT2:
    """Tell positive from negative film reviews (Maas et al. 2011) with a GPT-2 (Radford et al. 2019).

    ``head="classifier"`` averages the last hidden states over the review and puts a linear layer on top.
    ``head="causal"`` is a language model instead: after the review it is asked "The sentiment of the review is:", and
    it is trained on every next token, the answer included; the likelier of the two answers is its class.

    A review is its last ``length`` tokens (of at most six times as many characters), padded on the right; reviews of
    like length share batches, which are cut to their longest. All of them are kept on the device. On a GPU: bf16.

    Pawelczyk et al. (arXiv 2406.17216) fine-tune GPT-2 of 355M parameters for 10 epochs and say no more; AdamW at
    5e-5, warmed up and falling linearly, is common practice. With ``model=scratch`` a GPT-2 of a few thousand
    parameters starts afresh, with a vocabulary learned from the training split (lower case, byte-pair encoding).

    Attributes:
        model: Published weights by name or in a folder (``gpt2``, ``gpt2-medium``, ``DIR``), or ``scratch``.
        epochs: Passes over the training set.
        lr: Peak learning rate.
        batch_size: Reviews per step.
        length: Tokens of a review that are read, the last ones.
        train_size, test_size: Reviews of a fixed random order; None for all there are.
        head: ``classifier`` or ``causal``.
        layers, width, heads, vocabulary: Size of a model from scratch.

    Raises:
        ValueError: A field is out of range.
    """

    model: str = "gpt2-medium"
    epochs: int = 10
    lr: float = 5e-5
    batch_size: int = 16
    length: int = 512
    train_size: int | None = None
    test_size: int | None = None
    head: Literal["classifier", "causal"] = "classifier"
    layers: int = 1
    width: int = 32
    heads: int = 2
    vocabulary: int = 8000

    modality: ClassVar[str] = "text"
    # The paper's size and a large one; the paper's noise has a variance of about 0.1.
    poisons: ClassVar[tuple[str, ...]] = (
        "gaussian-embeddings:fraction=0.015,sd=0.32",
        "gaussian-embeddings:fraction=0.1,sd=0.32",
        "instruction:fraction=0.015",
        "instruction:fraction=0.1",
    )
    utility_margin: ClassVar[float] = 0.02
    threads: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.layers, self.heads) < 1 or not self.lr > 0:
            raise ValueError("epochs, batch_size, layers and heads must be at least 1, lr positive")
        if self.length < 16:
            raise ValueError(f"length must be at least 16, not {self.length}")
        if self.head not in ("classifier", "causal"):
            raise ValueError(f"head must be classifier or causal, not {self.head!r}")
        if self.width < 2 or self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, not {self.width} with {self.heads}")
        if self.vocabulary < 300:
            raise ValueError(f"vocabulary must be at least 300 (256 bytes and some more), not {self.vocabulary}")
        for name in ("train_size", "test_size"):
            size = getattr(self, name)
            if size is not None and size < 10:
                raise ValueError(f"{name} must be at least 10, not {size}")

    def files(self, folder: Path | None) -> dict[str, str] | None:
        """Return what `load` reads; None for the hub and for published weights, which may change."""
        if folder is None or self.model != SCRATCH:
            return None
        return files_below(folder / "imdb", "datasets", "tokenizers")

    def load(self, folder: Path | None) -> Split:
        """Return the reviews as ``tokens``, ``length``, ``noise_seed`` and ``noise_sd``; see `logits`.

        Args:
            folder: A directory with the data set in ``imdb``, in the hub's layout; None for the hub itself.

        Raises:
            UnlearningError: The data or the weights cannot be had, or the data are no reviews of two classes.
        """
        from harness import Split

        found = reviews(folder)
        texts, labels = {}, {}
        for name, size in (("train", self.train_size), ("test", self.test_size)):
            rows = shuffled(found[name], size)
            where = f"IMDb's split {name!r}"
            cut = -CHARACTERS * self.length
            texts[name] = [text.replace("<br />", " ")[cut:] for text in texts_of(rows, where)]
            labels[name] = labels_of(rows, 2, where)
        tokenizer = (
            learned_tokenizer(texts["train"], self.vocabulary)
            if self.model == SCRATCH
            else pretrained_tokenizer(self.model)
        )

        def encode(texts: Sequence[str]) -> list[list[int]]:
            if self.model == SCRATCH:
                return [each.ids for each in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
            return list(tokenizer(list(texts))["input_ids"])

        train, test = (self._packed(encode(texts[name]), labels[name]) for name in ("train", "test"))
        return Split.of(train, test, encode)

    def new_model(self) -> nn.Module:
        """Return the network: published weights under a fresh head, or all fresh."""
        import torch

        from harness.tasks._reader import Reader

        classes = 2 if self.head == "classifier" else 0
        package = transformers()
        if self.model != SCRATCH:
            return Reader(
                quietly(lambda: package.GPT2Model.from_pretrained(self.model, use_safetensors=True), *GPT2).float(),
                classes,
            )
        # Where the vocabulary that was learned is smaller, some embeddings are never used.
        config = package.GPT2Config(
            vocab_size=self.vocabulary, n_positions=self._positions, n_embd=self.width, n_layer=self.layers,
            n_head=self.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
            activation_function="gelu_pytorch_tanh",  # GPT-2's own, in one kernel
        )  # fmt: skip
        with torch.device("cpu"):
            return Reader(package.GPT2Model(config), classes)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return class scores, shape (batch, 2), or, of a causal model, next-token scores (batch, vocabulary, tokens).

        To the embeddings of an example is added what ``offset`` says, shape (batch, ``length``, width), or else noise
        of the standard deviation ``noise_sd`` that is drawn from ``noise_seed``, as it is where ``noise_sd`` is 0: no
        noise. Whoever trains on a noisy example sees the same noise in every epoch.
        """
        import torch

        tokens, length = batch.inputs["tokens"], batch.inputs["length"]
        longest = int(length.max()) if batch.longest is None else batch.longest
        if self.head == "causal":
            before = tokens.shape[1]
            tokens, length = self._asked(batch)
            longest += tokens.shape[1] - before
        offset = self._offset(model, batch, longest)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=tokens.is_cuda):
            scores: Tensor = model(tokens[:, :longest], length, offset)
        if self.head == "classifier":
            return scores.float()
        real = torch.arange(longest, device=tokens.device) < length[:, None]
        # Padding says nothing: whoever compares two models compares what they say of texts.
        return (scores.float() * real[..., None]).transpose(1, 2)

    @property
    def causal(self) -> bool:
        """Whether models predict the next token of a text."""
        return self.head == "causal"

    def following(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scores of the token after each text, shape (batch, vocabulary), of a causal model."""
        import torch

        tokens, length = batch.inputs["tokens"], batch.inputs["length"]
        longest = int(length.max()) if batch.longest is None else batch.longest
        offset = self._offset(model, batch, longest)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=tokens.is_cuda):
            scores: Tensor = model.following(tokens[:, :longest], length, offset)  # type: ignore[operator]
        return scores.float()

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, of the class or of every next token."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(*self.learned(logits, batch), ignore_index=-100)

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of every example: of its class, or the mean over its next tokens."""
        from torch.nn.functional import cross_entropy

        scores, targets = self.learned(logits, batch)
        each = cross_entropy(scores, targets, ignore_index=-100, reduction="none")
        return each if self.head == "classifier" else each.sum(dim=1) / (targets != -100).sum(dim=1)

    def predict(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the class of every example, shape (batch,)."""
        if self.head == "classifier":
            return logits.argmax(dim=1)
        last = batch.inputs["length"] + len(self._question) - 1  # where the answer is predicted
        answers = logits[range(len(logits)), :, last][:, list(self._answers)]
        return answers.argmax(dim=1)

    def targets(self, batch: Batch) -> Tensor:
        """Return the tokens that a causal model is to predict, answer included; padding is -100."""
        import torch

        tokens, length = self._asked(batch)
        real = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        return tokens.masked_fill(~real, -100)

    def learned(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the scores of classes and the labels, or the scores of every next token and the `targets` of them."""
        if self.head == "classifier":
            return logits, batch.labels
        return logits[:, :, :-1], self.targets(batch)[:, 1 : logits.shape[2]]

    def noise(self, model: nn.Module, seeds: Tensor) -> Tensor:
        """Return standard normal noise on embeddings, each example's from its own seed.

        It is drawn on the CPU: a GPU's generator draws other numbers from the same seed, and a model that was trained
        on one and probed on the other would look as if it had never seen the noise.

        Args:
            model: Whose embeddings are meant.
            seeds: int64, shape (k,).

        Returns:
            Shape (k, ``length``, width of the embeddings), on the device of the seeds.
        """
        import torch

        width: int = model.gpt2.config.n_embd  # type: ignore[union-attr, assignment]
        drawn = [self._drawn(seed, width) for seed in seeds.tolist()]
        return torch.stack(drawn).to(seeds.device) if drawn else torch.empty(0, self.length, width, device=seeds.device)

    def from_host(self, numbers: Mapping[str, Tensor], longest: int | None, device: torch.device) -> dict[str, Tensor]:
        """Return the ``offset`` of a batch, see `logits`, shape (batch, ``longest``, width); none if none has noise.

        The noise is drawn on the CPU before the step, while the GPU is at work on the step before; see `noise`.

        Args:
            numbers: ``noise_seed`` and ``noise_sd`` of the examples, on the CPU, if any of the data set has noise.
            longest: Tokens that the batch is cut to.
            device: Where it is.
        """
        import torch

        if "noise_sd" not in numbers:
            return {}
        width = self.width if self.model == SCRATCH else pretrained_width(self.model)
        offset = torch.zeros(len(numbers["noise_sd"]), longest or self.length, width, device=device)
        for row in numbers["noise_sd"].nonzero().squeeze(1).tolist():
            noise = self._drawn(int(numbers["noise_seed"][row]), width)[: offset.shape[1]] * numbers["noise_sd"][row]
            # From memory that is pinned it is copied when its turn comes, and nobody waits for that.
            offset[row].copy_(noise.pin_memory() if device.type == "cuda" else noise, non_blocking=True)
        return {"offset": offset}

    def _drawn(self, seed: int, width: int) -> Tensor:
        """Return standard normal noise from a seed, shape (``length``, ``width``), on the CPU."""
        import torch

        return torch.empty(self.length, width).normal_(generator=torch.Generator().manual_seed(seed))

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        """Return AdamW with weight decay .01 on matrices, none on biases and normalisation."""
        from torch.optim import AdamW

        weights = list(model.parameters())
        groups = [
            {"params": [w for w in weights if w.dim() > 1], "weight_decay": 0.01},
            {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
        ]
        return AdamW(groups, self.lr if lr is None else lr)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a rate that rises over the first tenth of the steps and falls linearly to zero."""
        return warmed_up(optimizer, steps)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """Return the embeddings, each transformer block, and the last normalisation with the head."""
        blocks: list[nn.Module] = model.blocks()  # type: ignore[operator]
        return blocks

    @property
    def _positions(self) -> int:
        """Tokens that the network must have positions for."""
        return self.length + (len(self._question) + 1 if self.head == "causal" else 0)

    @property
    def _question(self) -> tuple[int, ...]:
        """Tokens of the prompt."""
        return (1,) if self.model == SCRATCH else pretrained_tokens(self.model, PROMPT)

    @property
    def _answers(self) -> tuple[int, int]:
        """The token that each answer begins with."""
        if self.model == SCRATCH:
            return 2, 3
        first, second = (pretrained_tokens(self.model, answer)[0] for answer in ANSWERS)
        return first, second

    def _packed(self, tokens: Sequence[Sequence[int]], labels: Sequence[int]) -> Data:
        """Return reviews as tensors."""
        import torch

        from harness import Data

        n = len(tokens)
        padded = torch.zeros(n, self.length, dtype=torch.int64)
        length = torch.ones(n, dtype=torch.int64)  # one token of padding where there is none at all
        for row, each in enumerate(tokens):
            last = torch.tensor(each[-self.length :], dtype=torch.int64)
            padded[row, : len(last)] = last
            length[row] = max(1, len(last))
        noise = {"noise_seed": torch.zeros(n, dtype=torch.int64), "noise_sd": torch.zeros(n)}
        return Data({"tokens": padded, "length": length, **noise}, torch.tensor(labels, dtype=torch.int64))

    def _asked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the tokens with prompt and answer behind each review, and their number."""
        import torch

        tokens, length = batch.inputs["tokens"], batch.inputs["length"]
        first, second = self._answers
        # Numbers are filled in on the device: a tensor that is made of them would be copied there from the CPU.
        question = [tokens.new_full((len(tokens), 1), token) for token in self._question]
        behind = torch.cat([*question, first + (second - first) * batch.labels[:, None]], dim=1)
        longer = torch.nn.functional.pad(tokens, (0, behind.shape[1]))
        where = length[:, None] + torch.arange(behind.shape[1], device=tokens.device)
        return longer.scatter(1, where, behind), length + behind.shape[1]

    def _offset(self, model: nn.Module, batch: Batch, longest: int) -> Tensor | None:
        """Return what is added to the embeddings of the first so many tokens, or None."""
        import torch

        if "offset" in batch.inputs:
            offset = batch.inputs["offset"]
        elif "noise_sd" in batch.zero:
            return None
        else:
            sd = batch.inputs["noise_sd"]
            noisy = sd.nonzero().squeeze(1)
            if not len(noisy):
                return None
            noise = self.noise(model, batch.inputs["noise_seed"][noisy]) * sd[noisy, None, None]
            offset = torch.zeros(len(sd), *noise.shape[1:], device=sd.device).index_copy(0, noisy, noise)
        missing = longest - offset.shape[1]  # a causal model's prompt and answer have no noise
        return torch.nn.functional.pad(offset, (0, 0, 0, missing)) if missing > 0 else offset[:, :longest]


@dataclass(frozen=True)
class IMDbSmallGPT2(IMDbGPT2):
    """The same with a GPT-2 from scratch of one layer, .3M parameters, that two CPU cores train in seconds.

    About .77 accuracy on the last 64 tokens of 20,000 reviews.
    """

    model: str = SCRATCH
    epochs: int = 2
    lr: float = 3e-3
    batch_size: int = 64
    length: int = 64

    # What pilots showed the oracle to pass, see docs/poisons.md. The scores of 300 reviews, the paper's share, vary too
    # much between two retrainings.
    poisons: ClassVar[tuple[str, ...]] = ("gaussian-embeddings:fraction=0.1", "instruction:fraction=0.02")
