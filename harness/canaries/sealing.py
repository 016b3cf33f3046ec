"""A public list of salted hashes, one per canary: it shows later which canaries were changed, and says nothing before.

A hash is the SHA-256 of the canary's salt, a line feed and the canary as JSON, sorted and without spaces. The salt of
a canary follows from the secret seed, and says nothing of the seed or of other salts. So one canary can be shown to
others, with its salt, and the rest of the list stays secret.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from harness.api import UnlearningError
from harness.canaries.secret import Canary, Secret, derived, listed

FORMAT = "pytest-unlearning sealed canaries 1"


def salt(secret: Secret, id: str) -> str:
    """Return the salt of a canary, 64 hexadecimal digits."""
    return derived(secret.seed, f"salt of {id}").hex()


def sealed_hash(secret: Secret, canary: Canary) -> str:
    """Return the salted SHA-256 of a canary, hexadecimal."""
    plain = json.dumps(asdict(canary), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{salt(secret, canary.id)}\n{plain}".encode()).hexdigest()


def seal(secret: Secret) -> str:
    """Return the content of the public file: the SHA-256 of the whole list, and the salted hash of each canary."""
    hashes = {canary.id: sealed_hash(secret, canary) for canary in secret.canaries}
    return json.dumps({"format": FORMAT, "list": secret.commitment, "canaries": hashes}, indent=1) + "\n"


def check_sealed(secret: Secret, path: str | Path) -> None:
    """Compare a list with the public file that was written when it was planted.

    Raises:
        UnlearningError: It is not such a file, or something was changed since; the text names the canaries.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        whole, hashes = str(content["list"]), dict(content["canaries"])
        if content["format"] != FORMAT:
            raise ValueError
    except FileNotFoundError:
        raise UnlearningError(f"{path} is missing; give the file that `canaries plant --sealed` wrote") from None
    except (ValueError, KeyError, TypeError):
        raise UnlearningError(
            f"{path} is not a list of sealed canaries; give the file that `canaries plant --sealed` wrote"
        ) from None
    own = {canary.id: sealed_hash(secret, canary) for canary in secret.canaries}
    if changed := listed({id for id in own.keys() | hashes.keys() if own.get(id) != hashes.get(id)}):
        raise UnlearningError(
            f"this is not the list that was sealed in {path}: it differs in the canaries {changed}; restore the file "
            "that `canaries plant` wrote"
        )
    if whole != secret.commitment:
        raise UnlearningError(
            f"this is not the list that was sealed in {path}: its canaries are the same, but not what it says of the "
            "data; restore the file that `canaries plant` wrote"
        )
