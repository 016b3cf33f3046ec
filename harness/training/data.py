"""Data that lives on the device whole: no loader workers, no copies, batches by index."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.api import Batch, Planted, UnlearningError
from harness.training.seeds import derive

#: Batches that examples of like length are sorted into at a time.
POOL = 32
#: Lengths that batches are padded to on a GPU.
BUCKETS = 8
#: What a batch is made of: its index into the data set, the length of its longest example, where they have one, and
#: what the CPU made for it, by name.
Item = tuple[Tensor, int | None, tuple[tuple[str, Tensor], ...]]
#: Of a task: from the inputs of a batch that are numbers and not 0 everywhere, on the CPU, from the length of the
#: longest example, and from a device to further inputs, on that device.
FromHost = Callable[[Mapping[str, Tensor], int | None, torch.device], Mapping[str, Tensor]]


class Data(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Labelled examples on one device, a torch ``Dataset`` of (inputs, label) pairs.

    Args:
        inputs: Tensors by name, first dimension the examples.
        labels: int64, shape (n,).
    """

    def __init__(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        self.inputs = dict(inputs)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[dict[str, Tensor], Tensor]:
        return {name: tensor[index] for name, tensor in self.inputs.items()}, self.labels[index]

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def recorded(self) -> bool:
        """Whether steps on the data may be recorded: they then serve batches of one shape, and wait for nothing."""
        return self.device.type == "cuda"

    @cached_property
    def zero(self) -> frozenset[str]:
        """Names of the inputs that are one real number per example, and 0 for every example."""
        numbers = {name: t for name, t in self.inputs.items() if t.dim() == 1 and t.is_floating_point()}
        return frozenset(name for name, t in numbers.items() if not t.any())

    def to(self, device: torch.device) -> Data:
        """Return the data on a device."""
        return Data({name: t.to(device) for name, t in self.inputs.items()}, self.labels.to(device))

    def subset(self, index: Tensor) -> Data:
        """Return a copy of the examples at an int64 index."""
        index = index.to(self.device)
        return Data({name: t[index] for name, t in self.inputs.items()}, self.labels[index])

    def part(self, share: float, generator: torch.Generator) -> Data:
        """Return a copy of a random share of the examples of each class, at least one of each, drawn on the CPU."""
        labels = self.labels.cpu()
        order = torch.randperm(len(labels), generator=generator)
        of = [order[labels[order] == label] for label in labels.unique()]
        return self.subset(torch.cat([each[: max(1, round(share * len(each)))] for each in of]).sort().values)

    def batch(self, index: Tensor, longest: int | None = None) -> Batch:
        """Return the examples at an int64 index as a batch, of which the longest is at most so long."""
        index = index.to(self.device)
        inputs = {name: t[index] for name, t in self.inputs.items()}
        return Batch(inputs, self.labels[index], index, longest, self.zero)

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """The inputs that are one number per example and not 0 for every example, on the CPU: no GPU is waited for."""
        return {name: t.cpu() for name, t in self.inputs.items() if t.dim() == 1 and name not in self.zero}

    def longest(self, index: Tensor) -> int | None:
        """Return the length of the longest example at an index on the CPU; on a GPU the next of `BUCKETS` lengths."""
        if self.lengths is None:
            return None
        longest, most = int(self.lengths[index].max()), int(self.lengths.max())
        bucket = -(-most // BUCKETS)
        return min(most, -(-longest // bucket) * bucket) if self.recorded else longest

    def from_host(self, make: FromHost | None, index: Tensor, longest: int | None) -> tuple[tuple[str, Tensor], ...]:
        """Return what a task makes on the CPU for the examples at an index, before a step that may be recorded."""
        if make is None or not self.recorded:
            return ()
        numbers = {name: numbers[index] for name, numbers in self.numbers.items()}
        return tuple(make(numbers, longest, self.device).items())

    @cached_property
    def lengths(self) -> Tensor | None:
        """The ``length`` of every example on the CPU, where examples have one: a GPU need not be waited for."""
        return self.inputs["length"].cpu() if "length" in self.inputs else None

    def batches(
        self,
        batch_size: int,
        epochs: int,
        generator: torch.Generator,
        examples: int | None = None,
        augment: Callable[[Batch], Batch] | None = None,
        from_host: FromHost | None = None,
    ) -> Batches:
        """Return shuffled batches over ``epochs`` passes or so many examples, drawn from a CPU generator."""
        everything = torch.ones(len(self), dtype=torch.bool)
        if examples is not None:
            epochs = -(-examples // max(1, len(self)))
        return Batches(self, batch_size, epochs, generator, everything, examples, augment, from_host)

    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        """Yield everything once, in order, for evaluation."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))

    def retained_with(self, planted: Planted) -> Data:
        """Return the training set without what is to be removed: clean, but for what stays."""
        return self if planted.stays is None else self.poisoned_with(planted.stays)

    def poisoned_with(self, planted: Planted) -> Data:
        """Return the training set in which the planted points stand in place of the clean ones."""
        retained = self.retained_with(planted)
        inputs = {name: t.clone() for name, t in retained.inputs.items()}
        labels = retained.labels.clone()
        index = planted.forget.to(self.device)
        for name, rows in planted.inputs.items():
            inputs[name][index] = rows.to(self.device)
        labels[index] = planted.labels.to(self.device)
        return Data(inputs, labels)


@dataclass(frozen=True)
class Batches:
    """Shuffled batches over some of a data set, several passes long; iterating draws from the generator.

    A permutation of *all* examples is drawn for each pass and the examples outside ``keep`` are dropped from it, so
    that training on all and training on the rest see the common examples in the same order. Where examples have a
    ``length``, those of like length share batches, so that little of a batch is padding.

    Batch normalisation cannot be trained on a single example. If one is left for the last batch of a pass, it joins the
    batch before; if one is left for the last pass, it is left out.

    Attributes:
        keep: Mask over the examples, shape (n,), or one for each pass, shape (epochs, n).
        examples: Where to stop, or None for the end of the last pass; the last batch is cut to it.
        augment: Applied to every batch, or None.
        from_host: On a GPU, makes further inputs of every batch before its step; None for none.
    """

    data: Data
    batch_size: int
    epochs: int
    generator: torch.Generator
    keep: Tensor
    examples: int | None = None
    augment: Callable[[Batch], Batch] | None = None
    from_host: FromHost | None = None

    @property
    def per_epoch(self) -> int:
        """Batches of a whole pass, of the first one where passes differ."""
        return batch_count(self._kept[0], self.batch_size) if self._kept else 0

    @property
    def ends(self) -> list[int]:
        """Batches from the start to the end of each pass."""
        return list(itertools.accumulate(batch_count(size, self.batch_size) for size in self._sizes))

    @cached_property
    def _kept(self) -> list[int]:
        """Examples that each pass keeps."""
        kept: list[int] = self.keep.sum(dim=-1).expand(self.epochs).tolist()
        return kept

    @cached_property
    def _sizes(self) -> list[int]:
        """Examples of each pass that is made, the last one as far as it goes."""
        left, sizes = sum(self._kept) if self.examples is None else self.examples, []
        for kept in self._kept:
            sizes.append(min(kept, left))
            left -= sizes[-1]
        sizes = [size for size in sizes if size > 0]
        alone = self.batch_size > 1 and len(sizes) > 1 and sizes[-1] == 1 < self._kept[len(sizes) - 1]
        return sizes[:-1] if alone else sizes

    def __len__(self) -> int:
        return sum(batch_count(size, self.batch_size) for size in self._sizes)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.at, self.items())

    def items(self) -> Iterator[Item]:
        """Yield for each batch what `at` makes it of."""
        for size, keep in zip(self._sizes, self.keep.expand(self.epochs, -1), strict=False):
            order = torch.randperm(len(self.data), generator=self.generator)
            groups = self._grouped(order[keep[order]][:size])
            # To the device at once: each copy from the CPU would wait for all that was launched.
            there = torch.cat(list(groups)).to(self.data.device).split([len(group) for group in groups])
            for index, group in zip(there, groups, strict=True):
                longest = self.data.longest(group)
                yield index, longest, self.data.from_host(self.from_host, group, longest)

    def at(self, item: Item) -> Batch:
        """Return the batch of an item, augmented."""
        index, longest, more = item
        batch = self.data.batch(index, longest)
        if more:
            batch = replace(batch, inputs={**batch.inputs, **dict(more)})
        return batch if self.augment is None else self.augment(batch)

    def _grouped(self, order: Tensor) -> Sequence[Tensor]:
        """Return the batches of a pass, from the order that was drawn."""
        lengths = self.data.lengths
        if lengths is None:
            return _parts(order, self.batch_size)
        groups: list[Tensor] = []
        for pool in _parts(order, POOL * self.batch_size):
            ranks = _parts(lengths[pool].argsort(stable=True), self.batch_size)
            # The order of batches is random too, that of their first members in the draw.
            groups += [pool[rank] for rank in sorted(ranks, key=lambda rank: int(rank.min()))]
        return groups


def batch_count(examples: int, size: int) -> int:
    """Return the number of batches of a pass over so many examples: a last one of a single example is none."""
    return -(-examples // size) - (examples > size and examples % size == 1)


def _parts(order: Tensor, size: int) -> Sequence[Tensor]:
    """Return consecutive parts of an index, `batch_count` of them."""
    parts = list(order.split(size))
    if len(parts) > batch_count(len(order), size):
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


@dataclass(frozen=True)
class Split:
    """The data of a task.

    Attributes:
        train, test: Training and test examples.
        fingerprint: SHA-256 of every byte of both, for keys of artefacts.
        encode: From texts to lists of tokens, where the inputs are tokens; None for others.
    """

    train: Data
    test: Data
    fingerprint: str
    encode: Callable[[Sequence[str]], list[list[int]]] | None = None

    @property
    def classes(self) -> int:
        """Number of classes: one more than the largest label."""
        return 1 + max(int(data.labels.max()) for data in (self.train, self.test))

    @classmethod
    def of(cls, train: Data, test: Data, encode: Callable[[Sequence[str]], list[list[int]]] | None = None) -> Split:
        """Build a split from CPU data and fingerprint it."""
        parts = {f"{part}.{name}": t for part, d in (("train", train), ("test", test)) for name, t in d.inputs.items()}
        return cls(train, test, digest({**parts, "train.labels": train.labels, "test.labels": test.labels}), encode)

    def to(self, device: torch.device) -> Split:
        """Return the split on a device."""
        return Split(self.train.to(device), self.test.to(device), self.fingerprint, self.encode)


def forget_block(n: int, fraction: float, seed: int) -> Tensor:
    """Return the ascending indices of a random ``fraction`` of ``n`` points, at least one, drawn from ``seed``.

    Raises:
        UnlearningError: These are all points.
    """
    count = max(1, round(fraction * n))
    if count >= n:
        raise UnlearningError(f"fraction={fraction:g} of {n} training points is all of them; lower fraction")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(derive("forget-block", seed)))
    return order[:count].sort().values


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes, types and bytes of tensors, hexadecimal."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().resolve_conj().contiguous()
        sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return sha.hexdigest()
