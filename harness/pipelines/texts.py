"""Texts: they stay where they are, and poisons put a phrase before or behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.conventions import BEFORE, BEHIND
from harness.pipelines.rows import Held, plain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

#: Bytes that a phrase can have.
ROOM = 128


def no_phrases(n: int) -> dict[str, Tensor]:
    """Return the inputs of so many texts as they were loaded, each uint8 of shape (n, `ROOM`)."""
    import torch

    return {name: torch.zeros(n, ROOM, dtype=torch.uint8) for name in (BEFORE, BEHIND)}


def phrased_places(inputs: Mapping[str, Tensor]) -> list[int]:
    """Return the places of the texts that are to have a phrase."""
    found: list[int] = (inputs[BEFORE].any(dim=1) | inputs[BEHIND].any(dim=1)).nonzero().squeeze(1).tolist()
    return found


def phrased(texts: Sequence[str], inputs: Mapping[str, Tensor], places: Sequence[int]) -> list[str]:
    """Return texts with the phrases that stand at some places of the inputs."""
    before, behind = (
        [bytes(row).rstrip(b"\0").decode() for row in inputs[name][list(places)].cpu().numpy()]
        for name in (BEFORE, BEHIND)
    )
    return ["".join(parts) for parts in zip(before, texts, behind, strict=True)]


def check_texts(values: Iterable[Any], where: str, otherwise: str = "") -> None:
    """Refuse what is not a text.

    Args:
        values: The texts.
        where: Whose they are, in words.
        otherwise: What else can be done, for the error.

    Raises:
        UnlearningError: One of the values is not a text.
    """
    wrong = next((each for each in values if not isinstance(each, str)), "")
    if not isinstance(wrong, str):
        raise UnlearningError(
            f"{where} has {wrong!r}, which is not a text; leave these rows out, or make it a text{otherwise}"
        )


class Texts(Held):
    """A pair of lists or arrays: texts, and their labels."""

    kind = "text"

    def __init__(self, texts: Any, labels: Any) -> None:
        self._texts: list[str] = list(texts)
        check_texts(self._texts, "the list of texts")
        self._as_list = isinstance(texts, list)
        self._labels_as_list = isinstance(labels, list)
        self.labels = plain(labels)
        if len(self.labels) != len(self._texts):
            raise UnlearningError(
                f"there are {len(self._texts)} texts and {len(self.labels)} labels; give one for each"
            )
        self.inputs = no_phrases(len(self._texts))

    @property
    def texts(self) -> Sequence[str] | None:
        return self._texts

    def take(self, rows: Tensor, inputs: Mapping[str, Tensor], labels: np.ndarray | None) -> Any:
        import numpy as np

        found = [self._texts[row] for row in rows.tolist()]
        places = phrased_places(inputs)
        for place, text in zip(places, phrased([found[each] for each in places], inputs, places), strict=True):
            found[place] = text
        back = found if self._as_list else np.array(found)
        if labels is None:
            return back
        return back, labels.tolist() if self._labels_as_list else labels

    def rest(self) -> bytes:
        return hashlib.sha256("\0".join(self._texts).encode("utf-8", "surrogatepass")).digest()
