"""What an unlearner promises, line by line. Imports no torch; `harness.contract.checks` has the checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.api import UnlearningError
from harness.cells import Registered

if TYPE_CHECKING:
    from harness.store.artefacts import Store
    from harness.trials.datasets import Datasets

#: The lines of the contract, by name.
LINES: dict[str, str] = {
    "ordinary-request": "serve an ordinary request",
    "one-point": "serve a forget set of one point, or refuse it by an UnlearningError that gives the reason",
    "whole-class": "serve a forget set that is a whole class, or refuse it by an UnlearningError that gives the reason",
    "large-batch": "serve sets smaller than a batch, or refuse them by an UnlearningError that gives the reason",
    "same-architecture": "return a model with the class, shapes and types of the one it was given",
    "finite-weights": "return finite weights",
    "changes-weights": "change the model",
    "depends-on-split": "return a different result if different points are to be forgotten",
    "reads-forget": "declare with reads_forget whether the forget set influences the result",
    "data-untouched": "leave the request's data, labels and history unchanged",
    "grad-flags": "return parameters that require gradients if they did before",
    "no-hooks": "leave no hooks behind",
    "no-shared-weights": "share no weights between the returned model and another that it keeps, such as a teacher",
    "repeatable": "return the same weights twice under the same seed, or declare repeatable = False",
    "budget": "keep to the compute budget of the request",
    "settings": "leave the global settings of torch, numpy and Python unchanged",
    "patches": "leave the functions of torch, numpy and the harness as they are",
    "leaves-nothing-running": "end the threads and processes that it starts",
    "state-dict": "keep all that the model's answers depend on in its state dict",
}


class BrokenContract(UnlearningError):  # noqa: N818 - it reads as what it is
    """A line of the contract does not hold.

    Attributes:
        line: Its name.
        request: The request that showed it, in words; empty where no single one did.
    """

    def __init__(self, line: str, sentence: str, request: str = "") -> None:
        super().__init__(sentence)
        self.line = line
        self.request = request

    def explain(self) -> str:
        """Return what was seen, which line of the contract it breaks, and on what request."""
        number = list(LINES).index(self.line) + 1
        lines = [str(self), f"  contract, line {number} ({self.line}): a method must {LINES[self.line]}"]
        return "\n".join([*lines, f"  request: {self.request}"] if self.request else lines)


@dataclass(frozen=True)
class Clause:
    """One line of the contract of one unlearner.

    Attributes:
        method: The unlearner.
        line: Name of the line, one of `LINES`.
        budget: Compute it may use, in passes over the retain set.
        epochs: Passes of the training that it undoes, which the epochs of its history refer to.
        store: Where it is kept what was found of it, or None.
        task: The task whose models and data it is examined on; None for little networks on generated images.
        datasets: Where the task's data come from; None for what it loads without a folder of data sets.
    """

    method: Registered
    line: str
    budget: float
    epochs: int
    store: Store | None = field(default=None, repr=False, compare=False)
    task: Registered | None = None
    datasets: Datasets | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.method.id}-{self.line}"


class NotExamined(Exception):  # noqa: N818 - no error: another line of the contract says what is wrong
    """A line could not be examined."""
