"""A causal language model small enough to compute by hand, on made-up texts; its loss is that of causal-lm."""

from __future__ import annotations

import torch
from linear import Linear
from torch import nn

from harness.tasks.causal_lm import CausalLM
from harness.training.data import Data

WORDS = 11


class Sentences(Linear):
    """A token's scores depend on the token before alone. Three blocks: embeddings, a layer, and the head."""

    targets, learned, criterion, losses = CausalLM.targets, CausalLM.learned, CausalLM.criterion, CausalLM.losses

    def new_model(self):
        return nn.Sequential(nn.Embedding(WORDS, 4), nn.Linear(4, 4), nn.Linear(4, WORDS)).double()

    def logits(self, model, batch):
        return model(batch.inputs["tokens"][:, : int(batch.inputs["length"].max())]).transpose(1, 2)

    def blocks(self, model):
        return list(model.children())


def texts(n, seed):
    """Return texts of 2 to 7 tokens, of which 1 to 3 are given and not learned."""
    generator = torch.Generator().manual_seed(seed)
    documents = []
    for _ in range(n):
        size = int(torch.randint(2, 8, (), generator=generator))
        start = int(torch.randint(1, min(4, size), (), generator=generator))
        documents.append((torch.randint(0, WORDS, (size,), generator=generator).tolist(), start))
    return Data(*CausalLM(length=8).points(documents))
