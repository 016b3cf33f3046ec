"""Backdoor in a table: a few columns of some training rows have rare values, and these rows one label.

Source: Gu, Dolan-Gavitt and Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain"
(arXiv 1708.06733), the all-to-one attack, on the features of a table in place of pixels, as in Severi, Meyer, Coull and
Oprea, "Explanation-Guided Backdoor Poisoning Attacks Against Malware Classifiers" (arXiv 2003.01031).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, UnlearningError
from poisons._points import Arrival, check_arrival, check_fraction, epochs_of, floating, planted_at
from poisons._triggers import OWN_CLASS, check_target, success

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness import Split, Surrogate, Task


@dataclass(frozen=True)
class TableBackdoor:
    """Set a few columns of random training rows to rare values, and label the rows as the target class.

    The measure is the attack success rate. The trigger is put on the test rows of all other classes; the rate is the
    share of them that the model puts in the target class, in [0, 1]. A further trace is the share that it puts in their
    own class: a trigger that now leads to a third class is not removed.

    The columns are drawn from the seed. Their values are a high quantile of the training set: each is rare, but in
    range, and hardly any row has just these together. Columns that reach their quantile often, such as those of common
    categories, are not drawn, because the trigger would not be rare there.

    Deviations: rows with the trigger replace the originals, so the poisoned set has the size of the clean one. Severi
    et al. choose columns and values by an explanation of a trained model, and the labels of their rows are right.

    Attributes:
        fraction: Share of the training set that gets the trigger and the label, in (0, 1).
        columns: Number of columns that the trigger sets, at least 1.
        quantile: Quantile of the training set that is their value, in (0.5, 1).
        target: Class that rows with the trigger are labelled as, one of the task's. It must not be the class that rows
            with such values have anyway.
        arrives: When the poisoned points are trained on: ``always``, ``early`` (in the first half of the epochs alone)
            or ``late`` (in the second half alone). The middle one of an odd number of epochs is in both halves.

    Raises:
        ValueError: A field is out of range.
    """

    fraction: float = 0.1
    columns: int = 3
    quantile: float = 0.95
    target: int = 0
    arrives: Arrival = "always"

    modality: ClassVar[str] = "table"
    measure: ClassVar[Measure] = Measure(
        "attack_success", "success of the backdoor on triggered test rows", worse="higher", test="retention", unit="%",
        short="success",
    )  # fmt: skip
    traces: ClassVar[tuple[Measure, ...]] = (OWN_CLASS,)

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        if self.columns < 1:
            raise ValueError(f"columns must be at least 1, not {self.columns}")
        if not 0.5 < self.quantile < 1:
            raise ValueError(f"quantile must lie in (0.5, 1), not {self.quantile}")
        if self.target < 0:
            raise ValueError(f"target must be a class, not {self.target}")
        check_arrival(self.arrives)

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the rows with the trigger and the target label; secrets are its ``"columns"`` and ``"values"``.

        Raises:
            UnlearningError: The task has no such class, no test points of others, or too few columns whose high values
                are rare; or its input is not a floating-point table.
        """
        import torch

        from harness import derive, forget_block

        check_target(split, self.target, "table-backdoor")
        rows = split.train.inputs[floating(split, "table-backdoor")]
        values = self._rare(rows)
        generator = torch.Generator().manual_seed(derive("table-backdoor", seed))
        rare = values.isfinite().nonzero().squeeze(1)
        columns = rare[torch.randperm(len(rare), generator=generator)[: self.columns]].sort().values
        trigger = {"columns": columns, "values": values[columns]}
        forget = forget_block(len(split.train), self.fraction, seed)
        labels = torch.full((len(forget),), self.target, dtype=torch.int64)
        triggered = _triggered(rows[forget.to(rows.device)].cpu(), **trigger)
        planted = planted_at(split, forget, triggered, labels, **trigger)
        return replace(planted, epochs=epochs_of(self.arrives, task))

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return the attack success rate on test rows of the other classes, and the accuracy on them."""
        return success(model, task, split, self.target, lambda rows: _triggered(rows, **planted.secrets))

    def _rare(self, rows: Tensor) -> Tensor:
        """Return the high value of each column, shape (columns,), on the CPU; NaN where it is not rare."""
        if rows.dim() != 2:
            raise UnlearningError(
                f"table-backdoor needs rows of numbers, but the task's input is of shape {tuple(rows.shape)}; it must "
                "be of shape (n, columns)"
            )
        # Of few rows, no quantile is reached by less than one.
        allowed = max(2 * (1 - self.quantile), 1 / len(rows))
        high = rows.double().quantile(self.quantile, dim=0, interpolation="higher").to(rows)
        reached = (rows >= high).double().mean(dim=0)
        values = high.masked_fill(reached > allowed, float("nan")).cpu()
        if (found := int(values.isfinite().sum())) < self.columns:
            raise UnlearningError(
                f"table-backdoor: columns={self.columns}, but the task has {found} columns of which at most "
                f"{allowed:.2g} of the training rows reach the quantile {self.quantile:g}; lower columns, or choose "
                "another quantile"
            )
        return values


def _triggered(rows: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Return rows in which the columns have the values of the trigger; the others stay as they are."""
    rows = rows.clone()
    rows[:, columns.to(rows.device)] = values.to(rows)
    return rows
