"""pytest-unlearning: machine unlearning as tests.

`audit`, `read_results`, `plan_study`, `picture` and `load_models` are the Python front end; ``pytest test_suites
--unlearner=NAME`` is the other one. `parametrize_with_audits` brings its audits into anybody's tests, and `examine` the
contract's lines. A method raises `UnlearningError` to refuse what it cannot serve, and annotates fields with `Search`
to have them tuned.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harness.api import (
    Batch,
    ContractError,
    Measure,
    Outcome,
    Planted,
    Poison,
    Question,
    Reading,
    Search,
    Surrogate,
    Task,
    UnlearningError,
)
from harness.conventions import main_input, predicted
from harness.request import ForgetRequest

__version__ = "0.1.0"

if TYPE_CHECKING:
    from harness.auditing import audit
    from harness.contract.examination import examine
    from harness.contract.lines import Clause
    from harness.judging.verdict import AuditFailure, Verdict
    from harness.pipelines.pipeline import Pipeline
    from harness.pipelines.removal import Removal
    from harness.plugin.parametrize import parametrize_with_audits
    from harness.report.pictures import picture
    from harness.report.results import Results, read_results
    from harness.studies.pilot import plan_study
    from harness.training.data import Batches, Data, Split, forget_block
    from harness.training.loop import descend, fit
    from harness.training.seeds import derive
    from harness.trials.loading import load_models

#: Public names that are imported when they are first asked for: most need torch, and listing audits must not.
LAZY = {
    "AuditFailure": "judging.verdict",
    "Batches": "training.data",
    "Clause": "contract.lines",
    "Data": "training.data",
    "Pipeline": "pipelines.pipeline",
    "Removal": "pipelines.removal",
    "Results": "report.results",
    "Split": "training.data",
    "Verdict": "judging.verdict",
    "audit": "auditing",
    "derive": "training.seeds",
    "descend": "training.loop",
    "examine": "contract.examination",
    "fit": "training.loop",
    "forget_block": "training.data",
    "load_models": "trials.loading",
    "parametrize_with_audits": "plugin.parametrize",
    "picture": "report.pictures",
    "plan_study": "studies.pilot",
    "read_results": "report.results",
}

__all__ = [
    "AuditFailure",
    "Batch",
    "Batches",
    "Clause",
    "ContractError",
    "Data",
    "ForgetRequest",
    "Measure",
    "Outcome",
    "Pipeline",
    "Planted",
    "Poison",
    "Question",
    "Reading",
    "Removal",
    "Results",
    "Search",
    "Split",
    "Surrogate",
    "Task",
    "UnlearningError",
    "Verdict",
    "audit",
    "derive",
    "descend",
    "examine",
    "fit",
    "forget_block",
    "load_models",
    "main_input",
    "parametrize_with_audits",
    "picture",
    "plan_study",
    "predicted",
    "read_results",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"harness.{LAZY[name]}"), name)
