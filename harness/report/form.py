"""Whether a JSON result has the form that is published, so that whoever reads on needs no checks of its own."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

#: Characters of a sentence that are told: it may quote a part of the result.
LONGEST = 200


def misfit(document: Any) -> str:
    """Return where a result departs from ``schema.json``, and how; ``""`` if nowhere."""
    from jsonschema.exceptions import best_match

    worst = best_match(_validator().iter_errors(document))
    return "" if worst is None else f"{worst.json_path}: {worst.message[:LONGEST]}"


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(Path(__file__).with_name("schema.json").read_text(encoding="utf-8")))
