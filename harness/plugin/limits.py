"""How bad an expected FAIL may be: what ``at_most`` limits, and in which unit.

It works on audits, and on the traces of audits, as plain values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def traces_in(audit: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the traces of an audit by their names; itself under ``""`` if there are not several."""
    return {trace["name"]: trace for trace in audit.get("traces", {}).values()} or {"": audit}


def badness(audit: Mapping[str, Any]) -> float:
    """Return how bad an audit or a trace is, in the unit of ``at_most``: its estimate, or how much is lost.

    What is lost is in points of accuracy, or in the unit of a measure that is no share. Of a poison it is the size of
    the fraction, which is below 0 where a model was moved beyond retraining. Infinite if there is no finite estimate,
    as after a divergence.
    """
    return math.inf if audit.get("estimate") is None else _as_limit(audit, audit["estimate"])


def limit_of(audit: Mapping[str, Any]) -> float:
    """Return the ``at_most`` that is written for a FAIL that was seen; infinity if it has no finite estimate.

    It is the worse end of the interval and a tenth of it, so that noise does not break it, rounded up to two digits. If
    that end is unbounded, it is twice the estimate. Compute has no interval, and takes the estimate and a tenth. Of a
    trace that did not fail it is at least the fraction that is tolerated.
    """
    ends = [math.inf if end is None else _as_limit(audit, end) for end in audit["interval"]]
    worst = badness(audit) if audit.get("test") == "budget" else max(ends)
    limit = 1.1 * worst if math.isfinite(worst) else 2 * badness(audit)
    if not math.isfinite(limit) or limit <= 0:
        return limit
    digits = 1 - math.floor(math.log10(limit))
    limit = round(math.ceil(round(limit * 10.0**digits, 6)) / 10.0**digits, max(digits, 0))
    return max(limit, audit.get("margin") or 0.0) if audit.get("test") == "retention" else limit


def _as_limit(audit: Mapping[str, Any], value: Any) -> float:
    if audit.get("test") in ("retention", "exact-null"):  # either side of 0 is as bad
        return float(abs(value))
    if audit.get("test") == "non-inferiority":
        return float((1 if audit.get("worse") == "higher" else -1) * (100 if _is_share(audit) else 1) * value)
    return float(value)


def _is_share(audit: Mapping[str, Any]) -> bool:
    return bool(audit.get("unit", "%") == "%")


def amount(audit: Mapping[str, Any], value: float) -> str:
    """Return the `badness` of an audit, or of one of its traces, as people read it."""
    trace = f" ({audit['name']})" if "name" in audit else ""
    if not math.isfinite(value):
        return f"no finite estimate{trace}"
    if audit.get("test") == "non-inferiority":
        return f"{value:.1f} points of accuracy{trace}" if _is_share(audit) else f"{value:.3f}{trace}"
    if audit.get("test") == "exact-null":
        return f"{value:.1f} standard deviations{trace}"
    return f"{value:.2f} of {'the compute of retraining' if audit.get('test') == 'budget' else 'the effect'}{trace}"
