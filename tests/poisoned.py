"""What the tests of poisons on images share: the tiny task, its data, and models of it."""

import torch
from tiny import Tiny

from harness.training.data import Batches
from harness.training.loop import fit

TINY = Tiny()
SPLIT = TINY.load(None)


def trained(data, seed=0, keep=None, epochs=10):
    torch.manual_seed(seed)
    model = TINY.new_model()
    keep = torch.ones(len(data), dtype=torch.bool) if keep is None else keep
    fit(TINY, model, Batches(data, TINY.batch_size, epochs, torch.Generator().manual_seed(seed), keep))
    return model.eval()


def untrained(seed):
    torch.manual_seed(seed)
    return TINY.new_model().eval()


def retain_mask(planted):
    keep = torch.ones(len(SPLIT.train), dtype=torch.bool)
    keep[planted.forget] = False
    return keep
