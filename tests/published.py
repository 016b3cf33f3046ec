"""The published form of a result, and what a result has that is against it."""

import json
from pathlib import Path

import jsonschema

import harness.report

SCHEMA = json.loads((Path(harness.report.__file__).parent / "schema.json").read_text(encoding="utf-8"))
_CHECKED = jsonschema.Draft202012Validator(SCHEMA)


def against_schema(document):
    """Return what is wrong with a result: where, and what."""
    return [f"{each.json_path}: {each.message}" for each in _CHECKED.iter_errors(document)]
