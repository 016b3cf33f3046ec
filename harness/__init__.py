"""pytest-unlearning: machine unlearning as tests.

`audit`, `plan_study`, `picture` and `load_models` are the Python front end; ``pytest test_suites --unlearner=NAME`` is
the other one. `parametrize_with_audits` brings its audits into anybody's tests, and `examine` the contract's lines. A
method raises `UnlearningError` to refuse what it cannot serve, and annotates fields with `Search` to have them tuned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.api import Search, UnlearningError

__version__ = "0.1.0"

if TYPE_CHECKING:
    from harness.examination import examine as examine
    from harness.frontend import audit as audit
    from harness.models import load_models as load_models
    from harness.parametrize import parametrize_with_audits as parametrize_with_audits
    from harness.pictures import picture as picture
    from harness.planning import plan_study as plan_study

__all__ = [
    "Search",
    "UnlearningError",
    "audit",
    "examine",
    "load_models",
    "parametrize_with_audits",
    "picture",
    "plan_study",
]


def __getattr__(name: str) -> Any:
    # Lazy, because the pytest plugin imports this package at every start-up and an audit needs torch.
    if name == "audit":
        from harness.frontend import audit

        return audit
    if name == "load_models":
        from harness.models import load_models

        return load_models
    if name == "examine":
        from harness.examination import examine

        return examine
    if name == "parametrize_with_audits":
        from harness.parametrize import parametrize_with_audits

        return parametrize_with_audits
    if name == "plan_study":
        from harness.planning import plan_study

        return plan_study
    if name == "picture":
        from harness.pictures import picture

        return picture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
