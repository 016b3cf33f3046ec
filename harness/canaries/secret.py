"""The secret list of canaries: which were in, by coins that can be shown later to be the ones that were tossed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.canaries.tables import Place, Row

FORMAT = "pytest-unlearning canaries 1"


@dataclass(frozen=True)
class Canary:
    """One canary.

    Attributes:
        id: Its name; it says nothing of the coin.
        planted: Whether the coin put it in.
        place: Where it stands in what was written: the row, counted from 0, or the path of the picture. None if out.
        row: Its value in each column; a picture is a mapping of ``base64`` and ``suffix``.
    """

    id: str
    planted: bool
    place: Place | None
    row: Row


@dataclass(frozen=True)
class Secret:
    """All canaries, in and out.

    Attributes:
        seed: What all that is random was derived from. Whoever knows it knows the coins.
        kind: What the data is: ``"csv"``, ``"jsonl"``, ``"pictures"`` or ``"datasets"``.
        details: What else is known of it: the delimiter of a CSV file, the features of a saved data set.
        data, out: Names of the data before and after, and their SHA-256.
        columns: What the columns of the data are: ``label``, ``text``, ``key``, ``source``.
        canaries: In the order of their ids.
    """

    seed: str
    kind: str
    details: Mapping[str, Any]
    data: Mapping[str, str]
    out: Mapping[str, str]
    columns: Mapping[str, Any]
    canaries: tuple[Canary, ...]

    @property
    def document(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format": FORMAT, **asdict(self)}

    @property
    def commitment(self) -> str:
        """SHA-256 of the content, hexadecimal: it shows that nothing was changed, and nothing else."""
        sealed = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(sealed.encode()).hexdigest()

    @property
    def planted(self) -> dict[str, Place]:
        """The places of the canaries that are in, by id."""
        return {canary.id: canary.place for canary in self.canaries if canary.place is not None}

    @classmethod
    def read(cls, path: str | Path) -> Secret:
        """Read the file that `harness.canaries.plant` wrote.

        Raises:
            UnlearningError: It is not such a file, or its coins are not those of its seed.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError
            found = cls(**{**content, "canaries": tuple(Canary(**each) for each in content["canaries"])})
            coins = [canary.planted for canary in found.canaries]
            sound = all((canary.place is not None) == canary.planted for canary in found.canaries)
        except FileNotFoundError:
            raise UnlearningError(f"{path} is missing; give the secret file that `canaries plant` wrote") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UnlearningError(
                f"{path} is not a secret file of canaries; give the one that `canaries plant` wrote"
            ) from None
        if not coins or not sound or coins != toss(found.seed, len(coins)):
            raise UnlearningError(f"the coins in {path} are not those of its seed: the file was changed; restore it")
        return found

    def check(self, commitment: str) -> None:
        """Compare the list with what was noted down when it was sealed.

        Raises:
            UnlearningError: It is another list.
        """
        if commitment.strip().lower() != self.commitment:
            raise UnlearningError(
                f"this is not the list that was sealed: its SHA-256 is {self.commitment}, not {commitment.strip()}; "
                "restore the file that `canaries plant` wrote"
            )

    def shuffled(self) -> dict[str, Row]:
        """Return all canaries by id, in an order that does not depend on the coins, without the coins."""
        rows = [(canary.id, canary.row) for canary in self.canaries]
        stream(self.seed, "order").shuffle(rows)
        return dict(rows)


def toss(seed: str, number: int) -> list[bool]:
    """Return fair coins: bits of SHAKE-256, from which nobody can tell the seed or another coin."""
    return [bool(byte & 1) for byte in hashlib.shake_256(_label(seed, "coins")).digest(number)]


def stream(seed: str, purpose: str) -> random.Random:
    """Return random numbers for one purpose; they say nothing of the coins or of other purposes."""
    return random.Random(int.from_bytes(derived(seed, purpose)))


def derived(seed: str, purpose: str) -> bytes:
    """Return 32 bytes for one purpose; they say nothing of the seed, the coins or other purposes."""
    return hashlib.sha256(_label(seed, purpose)).digest()


def listed(names: Set[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(sorted(map(str, names))[:5]) + more


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of the names of its files and their SHA-256, in order."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{sha256(file)}  {name}\n" for name, file in files).encode()).hexdigest()


def _label(seed: str, purpose: str) -> bytes:
    return f"pytest-unlearning canaries\n{purpose}\n{seed}".encode()
