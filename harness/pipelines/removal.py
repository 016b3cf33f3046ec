"""A pipeline's own removal, a function or a command, as an unlearner."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.importing import raised
from harness.pipelines.identity import identity_of
from harness.pipelines.pipeline import Pipeline, end_workers
from harness.pipelines.rows import ROW
from harness.sources import reached

if TYPE_CHECKING:
    from torch import nn

    from harness.request import ForgetRequest

#: What a command may name, in braces.
PLACES = ("model", "ids", "retain", "forget", "out")
#: Lines of a command's output that are shown if it fails.
SHOWN = 15


class Removal:
    """A removal that knows models and rows as the pipeline does.

    On the command line ``--unlearner=pipeline.py:remove``. It needs a pipeline as its task.

    Args:
        remove: Either ``remove(model, retain, forget) -> model``, with rows of the kind that the pipeline loads. Or a
            command with names in braces: ``{model}``, the file of the model; ``{ids}``, a text file with the row
            numbers in the training set of the rows to remove, counted from 0, one per line; ``{retain}`` and
            ``{forget}``, the rows themselves, as CSV or ``.npz``; ``{out}``, where the command must put its model.

    Raises:
        UnlearningError: It is neither.
    """

    def __init__(self, remove: Callable[..., Any] | str, name: str = "remove") -> None:
        if isinstance(remove, str):
            _check_command(remove, name)
        elif not callable(remove):
            raise UnlearningError(f"{name} must be a function or a command, not {type(remove).__name__}")
        self._remove, self._name = remove, name
        #: The function, or another of the file in which the command stands; its source is part of the method's.
        self.wraps: Callable[..., Any] | None = None if isinstance(remove, str) else remove
        self.depends_on: Any = ()
        #: What tells it from other removals of the same source, as plain values.
        self.identified_by = {"command": remove} if isinstance(remove, str) else identity_of(remove)
        self._folder: Path | None = None
        # A function may draw fresh random numbers, and may retrain on what is kept; nobody knows what a command does.
        self.repeatable = False
        self.reads_forget = getattr(remove, "reads_forget", None)
        self.needs_task = True

    @classmethod
    def of_module(cls, module: ModuleType, file: str, attribute: str) -> Removal:
        """Return the removal that a module defines.

        Raises:
            UnlearningError: It defines none under that name.
        """
        if not hasattr(module, attribute):
            raise UnlearningError(f"{file} does not define {attribute!r}; define it as a function or a command")
        found = cls(getattr(module, attribute), attribute)
        declared = getattr(module, "depends_on", ())
        found.depends_on = (declared,) if isinstance(declared, str) else tuple(declared)
        if isinstance(found._remove, str):  # it stands in the pipeline's file, beside which lies what it names
            found.wraps = module.train
            found._folder = Path(str(module.__file__)).resolve().parent
            found.depends_on += tuple(found._files(shlex.split(found._remove)))
        return found

    def _files(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the files that a command names, and the modules that such a file can import from beside it."""
        assert self._folder is not None
        for word in words:
            file = self._folder / word
            if file.is_file():
                yield word
                if file.suffix == ".py" and file.stem.isidentifier():
                    beside = reached(file.stem, file.parent).files
                    yield from (os.path.relpath(each, self._folder) for each in beside if each != file.resolve())

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return what the removal made of the model.

        Raises:
            UnlearningError: The task is no pipeline, or the command failed.
        """
        pipeline = request._recipe
        if not isinstance(pipeline, Pipeline):
            raise UnlearningError(f"{self._name} is the removal of a pipeline; audit it on --task=PIPELINE.py")
        if isinstance(self._remove, str):
            return pipeline.wrapped(self._run(model, request, pipeline), "the command").to(request.device)
        retain, forget = (pipeline.rows(data, labelled=True) for data in (request.retain, request.forget))
        returned = self._remove(pipeline.unwrapped(model), retain, forget)
        end_workers()
        return pipeline.wrapped(returned, f"{self._name}()").to(request.device)

    def _run(self, model: nn.Module, request: ForgetRequest, pipeline: Pipeline) -> Any:
        command = str(self._remove)
        with tempfile.TemporaryDirectory(prefix="removal-") as folder:
            places = {each: Path(folder) / each for each in PLACES}
            pipeline.write(pipeline.unwrapped(model), places["model"])
            ids = request.forget.inputs[ROW].tolist()
            places["ids"].write_text("".join(f"{each}\n" for each in ids))
            for each, data in (("retain", request.retain), ("forget", request.forget)):
                if f"{{{each}}}" in command:
                    places[each] = _written(places[each], pipeline.rows(data, labelled=True))
            words = [word.format(**{each: str(path) for each, path in places.items()}) for word in shlex.split(command)]
            try:
                done = subprocess.run(
                    words, cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    errors="replace", check=False,
                )  # fmt: skip
            except OSError as error:
                raise UnlearningError(f"the command {words[0]!r} cannot be run: {error}") from None
            who = f"the command {words[0]!r}"
            last = "\n".join(done.stdout.splitlines()[-SHOWN:])
            ending = f"The last lines of its output:\n{last}" if last.strip() else "It printed nothing."
            if done.returncode:
                raise UnlearningError(f"{who} ended with exit code {done.returncode}. {ending}")
            if not places["out"].exists():
                raise UnlearningError(f"{who} wrote no model to {{out}}. {ending}")
            try:
                return pipeline.read(places["out"])
            except Exception as error:
                what = str(error) if isinstance(error, UnlearningError) else raised(error)
                raise UnlearningError(f"what {who} wrote to {{out}} is not a model of the pipeline: {what}") from error


def _check_command(command: str, name: str) -> None:
    try:
        words = shlex.split(command)
        named = dict.fromkeys(PLACES, "")
        for word in words:
            word.format(**named)
    except (ValueError, KeyError, IndexError) as error:
        allowed = f"{{{'}, {'.join(PLACES)}}}"
        raise UnlearningError(
            f"the command {name} = {command!r} is not valid ({error}); the names allowed in braces are {allowed}"
        ) from None
    if "{model}" not in command or "{out}" not in command:
        raise UnlearningError(f"the command {name} = {command!r} must name {{model}} and {{out}}")


def _written(path: Path, rows: Any) -> Path:
    """Write rows to a file, and return it."""
    import numpy as np

    if hasattr(rows, "to_csv"):
        path = path.with_suffix(".csv")
        rows.to_csv(path, index=False)
        return path
    if isinstance(rows, tuple):
        inputs, labels = (each.cpu().numpy() if hasattr(each, "cpu") else np.asarray(each) for each in rows)
        with io.FileIO(path.with_suffix(".npz"), "w") as file:
            np.savez(file, inputs=inputs, labels=labels)
        return path.with_suffix(".npz")
    raise UnlearningError(f"rows of {type(rows).__name__} cannot be written to a file; name {{ids}} in the command")
