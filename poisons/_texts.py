"""What the poisons on texts share: a phrase before or behind a text, in whichever form a task holds its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import UnlearningError
from harness.conventions import BEFORE, BEHIND

if TYPE_CHECKING:
    from torch import Tensor

    from harness import Split


def between_phrases(
    inputs: dict[str, Tensor], split: Split, before: str, behind: str, poison: str
) -> dict[str, Tensor]:
    """Return texts between two phrases, each of which may be empty.

    Of tokens, as many of the first ones are cut off as are too many.

    Args:
        inputs: Those of some points of the task.
        split: The task's data.
        before: The phrase before each text.
        behind: The phrase behind it.
        poison: Its name, for errors.

    Raises:
        UnlearningError: The task does not hold texts, or has no room for the phrases.
    """
    if {BEFORE, BEHIND} <= set(inputs):
        return {**inputs, BEFORE: _filled(inputs[BEFORE], before), BEHIND: _filled(inputs[BEHIND], behind)}
    if split.encode is None or not {"tokens", "length"} <= set(inputs):
        raise UnlearningError(
            f"{poison} needs texts: a pipeline that loads some, or a task that encodes them (harness.Split.encode), "
            "with the inputs 'tokens' and 'length'"
        )
    # A space before the text is part of its first word.
    first, last = split.encode([before.rstrip(), behind])
    return {**inputs, **_between(inputs["tokens"], inputs["length"], first, last)}


def _filled(room: Tensor, phrase: str) -> Tensor:
    """Return a phrase for each text, uint8, of the shape of the input."""
    import torch

    letters = list(phrase.encode())
    if len(letters) > room.shape[1]:
        raise UnlearningError(
            f"the trigger takes {len(letters)} bytes, and there is room for {room.shape[1]}; shorten it"
        )
    filled = torch.zeros_like(room)
    filled[:, : len(letters)] = filled.new_tensor(letters)
    return filled


def _between(tokens: Tensor, length: Tensor, first: list[int], last: list[int]) -> dict[str, Tensor]:
    """Return tokens between others, and their number."""
    import torch

    tokens, length = tokens.clone(), length.clone()
    room = tokens.shape[1] - len(first) - len(last)
    if room < 1:
        raise UnlearningError(
            f"the trigger takes {len(first) + len(last)} of {tokens.shape[1]} tokens and leaves none for the "
            "text; shorten it, or raise the task's length"
        )
    for row, n in enumerate(length.tolist()):
        kept = tokens[row, max(0, n - room) : n].clone()
        whole = torch.cat([tokens.new_tensor(first), kept, tokens.new_tensor(last)])
        tokens[row] = 0
        tokens[row, : len(whole)] = whole
        length[row] = len(whole)
    return {"tokens": tokens, "length": length}
