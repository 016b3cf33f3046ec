"""Documents of a causal language task, in the form that open-unlearning's trainers read.

Source: ``ForgetRetainDataset`` and ``DataCollatorForSupervisedDataset`` in ``src/data`` of
https://github.com/locuslab/open-unlearning at commit d3d7cf9. Deviation: padding is told by the length of a document,
not by a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.training.data import Data

IGNORED = -100  # the label of a token that is not learned


class Part(dict[str, Any]):
    """A batch, or a part of one, which says what it has if it is asked for something else."""

    def __missing__(self, name: str) -> Any:
        """Refuse.

        Raises:
            UnlearningError: Always.
        """
        raise UnlearningError(f"a batch has only {' and '.join(map(repr, self))} here, no {name!r}")


class Documents:
    """Documents, each as a dict of ``input_ids``, ``labels`` and ``attention_mask`` of shape (tokens,).

    Args:
        data: Points of a causal language task: ``tokens``, ``length``, ``start``, and the last token as the label.
    """

    def __init__(self, data: Data) -> None:
        self._tokens, self._length, self._start = (data.inputs[name].cpu() for name in ("tokens", "length", "start"))
        self._last = data.labels.cpu()

    def __len__(self) -> int:
        return len(self._last)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        import torch

        tokens = torch.cat([self._tokens[at, : self._length[at]], self._last[at, None]])
        labels = tokens.clone()
        labels[: self._start[at]] = IGNORED
        return {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens, dtype=torch.bool)}


class ForgetRetain:
    """The documents to forget, each beside one of those to keep, which is drawn by torch's global generator.

    Args:
        forget, retain: Points to remove and to keep.
    """

    def __init__(self, forget: Data, retain: Data) -> None:
        self.forget, self.retain = Documents(forget), Documents(retain)

    def __len__(self) -> int:
        return len(self.forget)

    def __getitem__(self, at: int) -> dict[str, dict[str, Tensor]]:
        import torch

        drawn = int(torch.randint(len(self.retain), ()))
        return {"forget": self.forget[at], "retain": self.retain[drawn]}


def collated(points: Sequence[dict[str, dict[str, Tensor]]]) -> Part:
    """Return a batch of points of `ForgetRetain`, tensors of shape (batch, tokens), padded on the right."""
    return Part({which: _padded([point[which] for point in points]) for which in points[0]})


def _padded(documents: Sequence[dict[str, Tensor]]) -> Part:
    from torch.nn.utils.rnn import pad_sequence

    fill = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}
    return Part(
        {
            name: pad_sequence([each[name] for each in documents], batch_first=True, padding_value=value)
            for name, value in fill.items()
        }
    )
