"""Seeds that are drawn for a submission, so that nobody can tune a method on them.

The audits' own seeds are a fixed list that everybody knows. Whoever tries many settings of a method on them and submits
the best has fitted these seeds, too. So a gate's owner keeps a *salt*, a secret text, and the seeds of a submission
follow from the salt and from what is submitted. The rule:

1. Each method is written as the JSON of its fields and of the SHA-256 of its source, with sorted keys and no spaces.
   Its name is left out, and so is whether it runs isolated.
2. These texts, each once, are sorted and joined by newlines.
3. Number i, for i = 0, 1, 2, ..., is the HMAC-SHA256, with the salt as its key, of ``i``, a newline and that text. As a
   big-endian integer, modulo the size of `POOL`, it names a seed of the pool; one that was drawn before is passed over.

All methods of a run share one list. The controls beside them use it, too, and have no part in the draw.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.api import UnlearningError
from harness.cells import Registered
from harness.judging.plan import LOOKS

#: Drawn seeds come from here. Nothing else uses them: audits have 0 to 99; pilots, tuning and benchmarks 1,000 to
#: 99,999.
POOL = range(1_000_000, 2_000_000)
#: Characters of the shortest salt. The seeds of a submission stand in its report, so a salt that can be guessed can
#: also be confirmed.
SHORTEST = 16
#: What a result says of its seeds: `FIXED`, or `DRAWN` and fingerprints.
FIXED, DRAWN = "fixed list", "drawn"
#: What names an environment variable in place of a file.
VARIABLE = "env:"


@dataclass(frozen=True)
class Draw:
    """The seeds of a submission, without the salt.

    Attributes:
        seeds: As many as the plan can use, none twice, in the order in which they are used.
        salt: Fingerprint of the salt: the first 8 hexadecimal digits of its SHA-256.
        texts: What the methods added to the draw, as `text_of`.
    """

    seeds: tuple[int, ...]
    salt: str
    texts: frozenset[str]

    def __str__(self) -> str:
        """Say what tells this draw from others: fingerprints of the salt and of the list."""
        listed = hashlib.sha256(",".join(map(str, self.seeds)).encode()).hexdigest()
        return f"{DRAWN}, salt {self.salt}, list {listed[:8]}"


def draw(where: str, methods: Iterable[Registered]) -> Draw:
    """Draw the seeds of a submission.

    Args:
        where: Where the salt is, as `read_salt` takes it.
        methods: The unlearners that are submitted together.

    Raises:
        UnlearningError: The salt cannot be read or is too short.
    """
    salt = read_salt(where)
    texts = frozenset(map(text_of, methods))
    text = "\n".join(sorted(texts))
    seeds: dict[int, None] = {}
    for i in itertools.count():
        digest = hmac.digest(salt, f"{i}\n{text}".encode(), "sha256")
        seeds[POOL[int.from_bytes(digest, "big") % len(POOL)]] = None
        if len(seeds) == LOOKS[-1]:
            return Draw(tuple(seeds), hashlib.sha256(salt).hexdigest()[:8], texts)
    raise AssertionError("it counts for ever")


def text_of(method: Registered) -> str:
    """Return what a method adds to a draw: its fields and its source, whatever its name is."""
    of = {"fields": dict(method.fields), "source": method.source}
    return json.dumps(of, sort_keys=True, separators=(",", ":"))


def read_salt(where: str) -> bytes:
    """Return the salt, without white space at its ends. Errors never repeat what was given: it may be the salt itself.

    Args:
        where: ``env:NAME`` for an environment variable, otherwise the path of a file.

    Raises:
        UnlearningError: There is no such variable or file, or what it holds is too short.
    """
    file = salt_file(where)
    try:
        salt = os.environ[where.removeprefix(VARIABLE)] if file is None else file.read_text(encoding="utf-8")
    except KeyError:
        raise UnlearningError("the environment variable that is to hold the salt is not set; set it") from None
    except (OSError, ValueError):
        raise UnlearningError(
            "the salt cannot be read; name a file that holds it, or env:NAME for an environment variable, and never "
            "write the salt itself on a command line"
        ) from None
    if len(salt.strip()) < SHORTEST:
        place = "environment variable" if file is None else "file"
        raise UnlearningError(
            f"the {place} holds a salt of {len(salt.strip())} characters; write at least {SHORTEST} random ones, such "
            'as python -c "import secrets; print(secrets.token_hex())" prints'
        )
    return salt.strip().encode()


def salt_file(where: str) -> Path | None:
    """Return the file that holds the salt; None for an environment variable."""
    return None if where.startswith(VARIABLE) else Path(where).expanduser().absolute()
