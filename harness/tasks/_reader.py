"""The network of the language tasks: a GPT-2 that may be fed noise on its embeddings, and a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.tasks._hub import without_masks


class Reader(nn.Module):
    """A GPT-2 and a linear head.

    Args:
        gpt2: A ``transformers`` ``GPT2Model``.
        classes: Outputs of the head, or 0 for the token embeddings as the head (a causal language model).
    """

    def __init__(self, gpt2: Any, classes: int) -> None:
        super().__init__()
        self.gpt2 = gpt2
        self.head = nn.Linear(gpt2.config.n_embd, classes) if classes else None

    def forward(self, tokens: Tensor, length: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return class scores, shape (batch, classes), or scores of the next token, (batch, tokens, vocabulary).

        No mask is needed: padding stands to the right, where no token looks.

        Args:
            tokens: int64, shape (batch, tokens).
            length: How many of them are not padding, shape (batch,).
            offset: Added to the embeddings, shape (batch, tokens, width).
        """
        states = self._states(tokens, offset)
        if self.head is None:
            return nn.functional.linear(states, self.gpt2.wte.weight)
        real = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        mean: Tensor = (states * real[..., None]).sum(dim=1) / length[:, None]
        scores: Tensor = self.head(mean)
        return scores

    def following(self, tokens: Tensor, length: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return the scores of the token after each text, shape (batch, vocabulary), of a causal language model."""
        last = self._states(tokens, offset)[torch.arange(len(tokens), device=tokens.device), length - 1]
        return nn.functional.linear(last, self.gpt2.wte.weight)

    def _states(self, tokens: Tensor, offset: Tensor | None) -> Tensor:
        embedded = self.gpt2.wte(tokens)
        if offset is not None:
            embedded = embedded + offset
        with without_masks(self.gpt2):
            states: Tensor = self.gpt2(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return states

    def blocks(self) -> list[nn.Module]:
        """Return the embeddings, each transformer block, and the last normalisation with the head."""
        last = [self.gpt2.ln_f] if self.head is None else [self.gpt2.ln_f, self.head]
        return [nn.ModuleList([self.gpt2.wte, self.gpt2.wpe]), *self.gpt2.h, nn.ModuleList(last)]
