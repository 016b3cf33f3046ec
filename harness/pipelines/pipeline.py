"""One's own pipeline as a task: plain functions that load, train and predict."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError, serves
from harness.importing import raised
from harness.pipelines.identity import identity_of
from harness.pipelines.models import Models
from harness.pipelines.settings import FUNCTIONS, OF_VERDICTS, SETTINGS, check_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.api import Batch
    from harness.pipelines.sets import Sets
    from harness.training.data import Data, Split

WRONG_LABELS, NOISE = "source:fraction={fraction},mislabelled=true", "gaussian:fraction={fraction}"
#: Poisons that fit each kind of data, at the share of the training set that a drill plants.
FITTING: Mapping[str, tuple[str, ...]] = {
    "image": ("backdoor:fraction={fraction}", WRONG_LABELS, NOISE),
    "table": ("table-backdoor:fraction={fraction}", WRONG_LABELS, NOISE),
    "text": ("text-backdoor:fraction={fraction}", WRONG_LABELS),
    "rows": (WRONG_LABELS,),
}
#: Share of the training set that is poisoned where nobody says how much.
FRACTION = 0.1


class Pipeline(Models):
    """A task made of plain functions, with a training loop of its own.

    On the command line ``--task=pipeline.py``: the functions and settings are then the module's, under the same names.

    Args:
        load: ``load() -> (train, test)``, two sets of rows of one kind: pairs (inputs, labels) of arrays or tensors,
            pairs (texts, labels) of lists, pandas DataFrames, torch data sets of (inputs, label) pairs,
            ``datasets.Dataset``, or paths of folders of pictures in class folders.
        train: ``train(data, seed) -> model``. ``data`` are rows of the kind that was loaded; of pictures, images of
            shape (n, channels, height, width) in [0, 1] and class names. Everything random must follow from ``seed``,
            an integer from 0 to 2**32 - 1; the global generators of Python, numpy and torch are seeded with it.
        predict: ``predict(model, inputs) -> scores``, of shape (n, classes), classes in the order of their sorted
            labels; or (n,), one score per row, positive for the second of two classes. Rows that are not negative and
            sum to 1 are taken for probabilities. The default is ``model(inputs)``.
        probe: ``probe() -> rows``, one more set of rows of the kind that was loaded. Their labels are what the source
            may have taught. The poison `source` then reads the share of these rows to which the model gives that label.
        model: ``model() -> torch.nn.Module``, the untrained network that ``train`` returns trained. With it, methods
            and poisons that need gradients or weights can be used, and weights are stored as tensors. Without it, a
            model may be an object of any kind, and is stored as ``save_model`` writes it.
        optimizer: ``optimizer(model) -> torch.optim.Optimizer``, for methods that train by steps. The default is Adam
            at 0.001. It needs ``model``.
        save_model, load_model: ``save_model(model, path)`` and ``load_model(path) -> model``, for objects that cannot
            be pickled, or should not be.
        label: Name of the column of labels.
        text: Name of the column of texts, before or behind which poisons may put a phrase; None if there is none. The
            default is taken only if there is such a column and all of its values are texts.
        features: Names of the columns of numbers that poisons may change in place of a text; None for the text, or
            for all columns that hold numbers.
        margin: Accuracy, as a share of 1, that may be lost against retraining.
        poisons: Specs of the poisons to plant; None for those that fit the data, in a tenth of the training set.
        epochs, batch_size: Of methods that train by steps.
        threads: CPU threads of a training.
        kind: ``"image"``, ``"table"``, ``"text"`` or ``"rows"``; None to look at the data. With it and ``poisons``,
            audits are listed without loading the data. The pictures of a torch data set are held in memory, so that
            poisons can change them, if it is ``"image"``.
        version: Text that is changed when the data change. It stands for what poisons cannot change, which is then not
            read for this. None to read it, once in every process.
        depends_on: Files, folders and modules that no import of the module names.

    Raises:
        UnlearningError: A function cannot be called, a setting is out of range, or a name is unknown.
    """

    def __init__(
        self, load: Callable[[], Any], train: Callable[[Any, int], Any], *, name: str = "", **more: Any
    ) -> None:
        unknown = [each for each in more if each not in (*FUNCTIONS, *SETTINGS)]
        if unknown:
            raise UnlearningError(f"a pipeline has no {unknown[0]!r}; it has {', '.join((*FUNCTIONS, *SETTINGS))}")
        functions: dict[str, Any] = {"load": load, "train": train} | {each: more.get(each) for each in FUNCTIONS}
        for each, function in functions.items():
            if function is not None and not callable(function):
                raise UnlearningError(f"{each} must be a function, not {type(function).__name__}")
        settings = {**SETTINGS, **{each: more[each] for each in SETTINGS if each in more}}
        check_settings(settings, name or "the pipeline")
        self._functions, self._settings, self.name = functions, settings, name
        self.epochs, self.batch_size, self.threads = (settings[each] for each in ("epochs", "batch_size", "threads"))
        self.utility_margin, self.depends_on = settings["margin"], settings["depends_on"]
        self.parts: Mapping[str, str] = {}
        named = {each: identity_of(function) for each, function in functions.items() if function is not None}
        own = {f"{each}.{what}": value for each, of in named.items() for what, value in of.items()}
        #: What tells this pipeline from others of the same source, as plain values.
        self.identified_by = own | {each: settings[each] for each in SETTINGS if each not in OF_VERDICTS}

    @classmethod
    @functools.cache
    def of_module(cls, module: ModuleType, name: str) -> Pipeline:
        """Return the pipeline that a module's functions and settings are.

        Raises:
            UnlearningError: It lacks ``load`` or ``train``.
        """
        lacking = [each for each in ("load", "train") if not callable(getattr(module, each, None))]
        if lacking:
            raise UnlearningError(f"{name} lacks the function {' and '.join(lacking)}; see docs/pipeline.md")
        from harness.pipelines.files import part_of

        given = {each: getattr(module, each) for each in (*FUNCTIONS, *SETTINGS) if hasattr(module, each)}
        found = cls(module.load, module.train, name=name, **given)
        # What a verdict alone depends on makes no stored model stale.
        names = ("load", "train", *FUNCTIONS, *(each for each in SETTINGS if each not in OF_VERDICTS))
        found.parts = {module.__name__: part_of(Path(str(module.__file__)), names)}
        return found

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that are not the defaults."""
        return {each: value for each, value in self._settings.items() if value != SETTINGS[each]}

    @property
    def wraps(self) -> tuple[Callable[..., Any], ...]:
        """The functions; their source is part of the task's."""
        return tuple(each for each in self._functions.values() if each is not None)

    @property
    def modality(self) -> str:
        """``"image"``, ``"table"``, ``"text"`` or ``"rows"``."""
        declared: str | None = self._settings["kind"]
        return declared or self._sets.train.kind

    @property
    def poisons(self) -> tuple[str, ...]:
        """Specs of the poisons to plant."""
        given: Sequence[str] | None = self._settings["poisons"]
        return self.fitting(FRACTION) if given is None else tuple(given)

    def fitting(self, fraction: float) -> tuple[str, ...]:
        """Return specs of the poisons that fit the data, planted in a share of the training set."""
        return tuple(spec for spec, why in self.considered(fraction).items() if not why)

    def considered(self, fraction: float) -> dict[str, str]:
        """Return specs of poisons for this kind of data, each with why it cannot be planted; ``""`` if it can."""
        specs = [spec.format(fraction=f"{fraction:g}") for spec in FITTING[self.modality]]
        specs = [f"{spec},target={self._target}" if spec.startswith("table-backdoor") else spec for spec in specs]
        return {spec: self.refuses(spec) for spec in specs}

    def refuses(self, spec: str) -> str:
        """Return why a poison cannot be planted in these data, in a sentence; ``""`` if it can.

        Of a poison that takes models to craft, only what it checks before that is known.

        Raises:
            SpecError: There is no such poison.
        """
        from harness import registry

        poison = registry.resolve("poison", spec)
        if not serves(poison.value, self.modality):
            served = poison.value.modality
            kinds = served if isinstance(served, str) else " or ".join(served)
            return f"{poison.name} is for data of the kind {kinds}, and these are of the kind {self.modality}"
        try:
            poison.value.plant(self, self.load(None), 0, _no_surrogate)
        except UnlearningError as error:
            return str(error)
        except _CraftingError:
            pass
        return ""

    @cached_property
    def _target(self) -> int:
        """The class whose rows have high values least often: a backdoor of high values is labelled as it."""
        import torch

        (features,), labels = self._sets.train.inputs.values(), self._sets.train.labels
        high = (features >= torch.quantile(features.double(), 0.95, dim=0)).double().mean(dim=1).numpy()
        return min(range(len(self.classes)), key=lambda place: float(high[labels == self.classes[place]].mean()))

    @cached_property
    def _sets(self) -> Sets:
        from harness.pipelines.rows import Columns
        from harness.pipelines.sets import Sets
        from harness.training.isolation import isolated_rng

        probe, who = self._functions["probe"], self.name or "the pipeline"
        try:
            with isolated_rng(0):  # data that are drawn anew in every process would never be found again
                loaded, asked = self._functions["load"](), None if probe is None else probe()
        except UnlearningError:
            raise
        except Exception as error:
            raise UnlearningError(f"the data of {who} cannot be loaded: {raised(error)}") from error
        with isolated_rng(0):  # pictures of a data set are read here, and may be drawn, too
            return Sets(loaded, asked, Columns(*(self._settings[each] for each in Columns._fields)))

    @property
    def classes(self) -> list[Any]:
        """The classes, sorted."""
        return self._sets.classes

    def load(self, folder: Path | None) -> Split:
        """Return the data as tensors."""
        from harness.training.isolation import isolated_rng

        with isolated_rng(0):  # a data set may draw at random what it returns
            return self._sets.split(self._settings["version"])

    def rows(self, data: Data | Batch, labelled: bool) -> Any:
        """Return rows of the kind that ``load`` returned; without labels the inputs alone."""
        return self._sets.rows(data, labelled)

    @property
    def texts(self) -> Sequence[str] | None:
        """The texts of the training set; None if it is of another kind."""
        return self._sets.train.texts

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column of the training set, row by row.

        Raises:
            UnlearningError: There is no such column.
        """
        return self._sets.train.column(name)

    def where(self, target: str) -> list[int]:
        """Return the ascending places of the rows of the training set that a function names, ``FILE.py:FUNCTION``.

        Raises:
            UnlearningError: It names none, or is no such function.
        """
        from harness.pipelines.naming import rows_where

        return rows_where(target, self._sets.loaded, len(self._sets.train.labels))

    def probe_set(self) -> Data | None:
        """Return the rows of ``probe``, on the CPU; None if there is no such function."""
        return self._sets.probe_set()

    def train(self, data: Data, seed: int) -> nn.Module:
        """Train a new model with the pipeline's own loop."""
        trained = self._functions["train"](self.rows(data, labelled=True), seed % 2**32)
        end_workers()
        return self.wrapped(trained, "train()").to(data.device)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the scores of a batch, shape (batch, classes)."""
        from harness.pipelines.scores import scores_of

        if self.unwrapped(model) is None:  # never trained
            return model.get_parameter("unused").to(batch.labels.device).expand(len(batch), len(self.classes))
        return scores_of(self._answered(model, batch), len(batch), len(self.classes)).to(batch.labels.device)

    def _answered(self, model: nn.Module, batch: Batch) -> Any:
        """Return what the pipeline predicts for a batch."""
        own, inputs, predict = self.unwrapped(model), self.rows(batch, labelled=False), self._functions["predict"]
        answered = own(inputs) if predict is None else predict(own, inputs)
        end_workers()
        return answered

    def _first_rows(self) -> Batch:
        import torch

        return self._sets.data(0).batch(torch.arange(2))

    def check_trained(self, model: nn.Module) -> None:
        """Refuse a trained model whose only score is a probability; the cost of a training does not include this.

        Raises:
            UnlearningError: It is.
        """
        import torch

        from harness.pipelines.scores import check_log_odds
        from harness.training.isolation import isolated_rng

        if len(self.classes) == 2:
            mode = model.training
            with isolated_rng(0), torch.no_grad():
                model.eval()
                check_log_odds((self._answered(model, batch), batch.labels) for batch in self._sets.data(0).chunks())
            model.train(mode)

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy.

        Raises:
            UnlearningError: A gradient is to be taken, and the scores have none.
        """
        import torch
        from torch.nn.functional import cross_entropy

        if torch.is_grad_enabled() and not logits.requires_grad:
            if self._functions["model"] is None:
                raise UnlearningError(
                    f"models of {self.name or 'the pipeline'} only predict, and this needs gradients; define model(), "
                    "or use poisons that need predictions alone: backdoor, table-backdoor, text-backdoor, source"
                )
            raise UnlearningError(
                "predict() returned scores without gradients; return a tensor that was made without torch.no_grad() "
                "and was not detached, or leave out model()"
            )
        return cross_entropy(logits, batch.labels)


class _CraftingError(Exception):
    """A poison asks for a model to craft with."""


def _no_surrogate(number: int) -> nn.Module:
    raise _CraftingError


def end_workers() -> None:
    """End the worker processes that joblib keeps for its next call."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=True)
