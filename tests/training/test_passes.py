"""Passes that keep different examples, as where a poison is there in some epochs alone."""

import itertools

import pytest
import torch
from tiny import Tiny

from harness.training.data import Batches, Data
from harness.training.loop import train

N = 23
DATA = Data({"x": torch.zeros(N, 1)}, torch.arange(N))
MASKS = torch.ones(3, N, dtype=torch.bool)
MASKS[0, :4] = False
MASKS[2, 5:] = False
KEPT = (19, 23, 5)


def batches(keep, size=4, examples=None):
    return Batches(DATA, size, len(keep), torch.Generator().manual_seed(0), keep, examples)


def labels(found):
    return [batch.labels.tolist() for batch in found]


def test_each_pass_keeps_its_own_examples_in_the_order_of_all():
    found, everything = batches(MASKS), batches(torch.ones_like(MASKS))
    ends, whole = [0, *found.ends], list(itertools.chain(*labels(everything)))
    drawn = labels(found)
    assert ends == [0, 5, 11, 12]  # of 19: 4 4 4 4 3; of 23: five of 4 and one of 3; of 5: 5, since 1 would be alone
    assert len(found) == len(drawn) == 12
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        kept = MASKS[number].nonzero().squeeze(1).tolist()
        order = whole[number * N : (number + 1) * N]
        assert list(itertools.chain(*drawn[start:end])) == [label for label in order if label in kept]


@pytest.mark.parametrize(("examples", "total"), [(None, 47), (0, 0), (18, 18), (20, 19), (21, 21), (45, 45), (99, 47)])
def test_a_number_of_examples_ends_them(examples, total):
    whole = list(itertools.chain(*labels(batches(MASKS))))
    limited = batches(MASKS, examples=examples)
    drawn = labels(limited)
    assert list(itertools.chain(*drawn)) == whole[:total]
    assert len(drawn) == len(limited)


def test_one_mask_is_that_of_every_pass():
    assert labels(batches(MASKS[:1].expand(3, -1))) == labels(
        Batches(DATA, 4, 3, torch.Generator().manual_seed(0), MASKS[0])
    )


def test_a_training_is_told_of_the_end_of_every_pass():
    task, data = Tiny(epochs=3), Tiny().load(None).train
    keep = torch.ones(3, len(data), dtype=torch.bool)
    keep[0, 32:] = False  # one step; then eight
    told = []
    _, examples = train(task, data, keep, 0, lambda model, done, of: told.append((done, of)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert examples == 32 + 240 + 240
    early = train(task, data, keep, 0, stop=1)
    assert early[1] == 32
