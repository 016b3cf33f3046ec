"""Source: rows that a team names, or a random draw, planted as they are or with a wrong label.

It asks what a team asks that must take a source back out of its model: does the model still know these rows? Nothing is
made up: the rows are the training set's own. The measure ranks the log-odds of each row's label among those of test
rows of its class. To score a row by the log-odds of its label is from Carlini, Chien, Nasr, Song, Terzis and Tramèr,
"Membership Inference Attacks From First Principles" (arXiv 2112.03570).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness import Measure, Planted, Reading, UnlearningError, predicted
from poisons._points import check_fraction, log_odds
from poisons._rows import named

if TYPE_CHECKING:
    from torch import nn

    from harness import Split, Surrogate, Task


#: What a source taught, as its team says.
PROBED = Measure(
    "probed", "rows of the probe set put in their label", worse="higher", test="retention", unit="%", short="probe",
    cause="source",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Plant rows of the training set as they are, or mislabelled.

    Rows can be named, by ``column`` and ``value``, by ``rows`` or by ``where``. They are then the same on every seed,
    and seeds differ by the training alone. Rows that are not named are drawn at random from the seed.

    The measure: for each row, the log-odds log p - log(1 - p) of the label that it was trained with, and the share of
    the test rows of the row's own class whose log-odds of that label are lower, ties as a half; the mean over the rows,
    in [0, 1]. For a model that never saw them it is near 0.5 if the rows are like the test rows. It need not be, since
    it is compared with retrained models. No scaling of the scores changes it.

    Attributes:
        column, value: Rows whose column has this value (`harness.columns.rows_with`); on a task that has columns, as a
            pipeline of tables has.
        where: ``FILE.py:FUNCTION``: rows of a pipeline that a function names. It is handed the training set as
            ``load`` returned it, and returns a truth value for each row, or row numbers.
        rows: Path of a text file with row numbers in the training set, counted from 0, one per line.
        fraction: Share of the training set that is drawn if no rows are named, in (0, 1).
        mislabelled: Whether each row gets a wrong label, drawn evenly from the other classes.
        canaries: Number of rows that are canaries, drawn at random from the source; all of it if it has fewer. A fair
            coin decides whether a canary gets a wrong label or keeps its own (`harness.studies.recall` judges by them).
        probe_set: Whether to ask the task's own probe set, too: a further trace is the share of it that the model puts
            in the classes that it is labelled as. A pipeline has one if it has a function ``probe``.

    Raises:
        ValueError: The rows are named in two ways or by half, or ``fraction`` is out of range.
    """

    column: str = ""
    value: str = ""
    rows: str = ""
    where: str = ""
    fraction: float = 0.1
    mislabelled: bool = False
    canaries: int = 0
    probe_set: bool = False

    modality: ClassVar[None] = None
    measure: ClassVar[Measure] = Measure(
        "source_rank", "standing of the source's rows among test rows", worse="higher", test="retention",
        short="rows", cause="source",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if bool(self.column) != bool(self.value):
            raise ValueError("column and value go together: source:column=vendor,value=acme")
        if sum(map(bool, (self.column, self.rows, self.where))) > 1:
            raise ValueError(
                "name the rows in one way: by column and value, by rows=FILE, or by where=FILE.py:FUNCTION"
            )
        check_fraction(self.fraction)
        if self.canaries < 0 or (self.canaries and self.mislabelled):
            raise ValueError("canaries must be at least 0, and 0 if mislabelled=true: a coin decides on their labels")
        if self.where and not Path(self.where.rpartition(":")[0]).is_file():
            raise ValueError(f"there is no such file: where={self.where}; it must be FILE.py:FUNCTION")
        if self.rows and not Path(self.rows).is_file():
            raise ValueError(f"there is no file {self.rows}; rows must be the path of a file with row numbers")

    @property
    def depends_on(self) -> tuple[str, ...]:
        """The file with row numbers, or those that make the function: if they change, other rows may be planted."""
        if not self.where:
            return (str(Path(self.rows).resolve()),) if self.rows else ()
        from harness.sources import reached

        file = Path(self.where.rpartition(":")[0]).resolve()
        return tuple(map(str, reached(file.stem, file.parent).files))

    @property
    def unused(self) -> tuple[str, ...]:
        """The share, if rows are named: they stay as many, whatever it is."""
        return ("fraction",) if self.column or self.rows or self.where else ()

    @property
    def traces(self) -> tuple[Measure, ...]:
        """The probe set, if it is asked."""
        return (PROBED,) if self.probe_set else ()

    def plant(self, task: Task, split: Split, seed: int, surrogate: Surrogate | None = None) -> Planted:
        """Return the rows. Secrets of canaries: their places in the source, their wrong labels, whether they have them.

        Raises:
            UnlearningError: No row is found, or all rows are; or the test set lacks a class of these rows.
        """
        import torch

        from harness import derive

        forget = named(task, len(split.train), seed, self)
        points = split.train.subset(forget)
        inputs, labels = {name: tensor.cpu() for name, tensor in points.inputs.items()}, points.labels.cpu()
        tested = split.test.labels.unique().tolist()
        for label in labels.unique().tolist():
            if label not in tested:
                raise UnlearningError(
                    f"the test set has no rows of the class {label}, with which the source is compared; add some"
                )
        generator = torch.Generator().manual_seed(derive("source", seed))
        if not self.mislabelled and not self.canaries:
            return Planted(forget, inputs, labels)
        wrong = (labels + torch.randint(1, split.classes, labels.shape, generator=generator)) % split.classes
        if self.mislabelled:
            return Planted(forget, inputs, wrong)
        places = torch.randperm(len(forget), generator=generator)[: self.canaries].sort().values
        coins = torch.randint(2, places.shape, generator=generator).bool()
        secrets = {"places": places, "wrong": wrong[places], "coins": coins}
        labels[places[coins]] = wrong[places[coins]]
        return Planted(forget, inputs, labels, secrets)

    def probe(self, model: nn.Module, planted: Planted, task: Task, split: Split) -> Reading:
        """Return where the rows stand; a detail is the share that is put in the class that they were trained with."""
        import torch

        points, trained = split.train.subset(planted.forget), planted.labels
        with torch.no_grad():
            ours = torch.cat([task.logits(model, batch) for batch in points.chunks()]).double().cpu()
            theirs = torch.cat([task.logits(model, batch) for batch in split.test.chunks()]).double().cpu()
        if not bool(ours.isfinite().all() and theirs.isfinite().all()):
            return Reading(float("nan"))
        own, tested = points.labels.cpu(), split.test.labels.cpu()
        shares = torch.full(own.shape, float("nan"), dtype=torch.float64)
        for label, trained_as in set(zip(own.tolist(), trained.tolist(), strict=True)):
            others = log_odds(theirs[tested == label], trained_as, "source")
            here = (own == label) & (trained == trained_as)
            found = log_odds(ours[here], trained_as, "source")[:, None]
            shares[here] = ((others < found).double() + (others == found).double() / 2).mean(dim=1)
        right = float((ours.argmax(1) == trained).double().mean())
        traces = {PROBED.name: self._probed(model, task, split)} if self.probe_set else {}
        return Reading(float(shares.mean()), details={"put_as_trained": right}, traces=traces)

    def _probed(self, model: nn.Module, task: Task, split: Split) -> Reading:
        """Return the share of the task's probe set that the model puts in the classes that it is labelled as."""
        import torch

        asked = getattr(task, "probe_set", lambda: None)()
        if asked is None:
            raise UnlearningError("source: probe_set=true needs a pipeline with a function probe()")
        asked = asked.to(split.test.device)
        with torch.no_grad():
            right = sum(int((predicted(task, model, batch) == batch.labels).sum()) for batch in asked.chunks())
        return Reading(right / len(asked), resolution=0.5 / len(asked))
