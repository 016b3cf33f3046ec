"""The data that canaries are planted into: a folder of pictures, or a directory that ``datasets`` saved."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.api import UnlearningError
from harness.canaries.tables import Place, Placed, Row, Rows, ordered
from harness.columns import pictures_in

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = ("L", "RGB", "RGBA")


class PictureRows(Rows):
    """A folder of pictures in class folders; its columns are ``class`` and ``picture``, and ``path`` names a source.

    Args:
        path: The folder.

    Raises:
        UnlearningError: It has no pictures in class folders.
    """

    kind = "pictures"
    columns = ("class", "picture")
    pictures = ("picture",)
    naming = ("path",)
    details: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        self._root = path
        self._pictures = pictures_in(path)
        if not self._pictures:
            raise UnlearningError(
                f"found no pictures in {path}; they must be in class folders, as {path}/CLASS/NAME.png"
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def values(self, column: str) -> list[str]:
        return [each.path if column == "path" else each.of for each in self._pictures]

    def value(self, row: int, column: str) -> Any:
        return self._pictures[row].of if column == "class" else opened(self._pictures[row].file)

    def write(self, target: Path, placed: Sequence[Placed], source: str | None = None) -> list[Place]:
        shutil.copytree(self._root, target)
        places: list[Place] = []
        for after, row in placed:
            content, suffix = unpacked(row["picture"])
            # A name that says nothing but which source it is of; and that only if names tell sources apart.
            name = f"{os.urandom(8).hex()}{suffix}"
            if source == "path":
                beside = PurePosixPath(*PurePosixPath(self._pictures[after].path).parts[1:])
                name = str(beside.with_name(f"{beside.stem}-{name}"))
            places.append(f"{row['class']}/{name}")
            file = target / str(places[-1])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return places


class SavedRows(Rows):
    """A directory that ``datasets.Dataset.save_to_disk`` wrote.

    Args:
        path: The directory.

    Raises:
        UnlearningError: It has several splits, it cannot be read, or ``datasets`` is not installed.
    """

    kind = "datasets"

    def __init__(self, path: Path) -> None:
        try:
            import datasets
        except ImportError:
            raise UnlearningError(
                f"reading {path} needs datasets, which is not installed: pip install datasets"
            ) from None
        if (path / "dataset_dict.json").is_file():
            splits = ", ".join(str(path / each.name) for each in sorted(path.iterdir()) if each.is_dir())
            raise UnlearningError(f"{path} holds several splits; name the one to plant into: {splits}")
        try:
            self._data = datasets.load_from_disk(str(path))
        except Exception as error:  # a damaged file raises something of pyarrow's
            raise UnlearningError(f"{path} cannot be read ({type(error).__name__}); save the data set again") from error
        self.details = {"features": self._data.features.to_dict()}
        self._plain = self._data.with_format(None)
        self.columns = list(self._data.column_names)
        self.pictures = [name for name, of in self._data.features.items() if isinstance(of, datasets.Image)]
        self._labels = {name: of for name, of in self._data.features.items() if isinstance(of, datasets.ClassLabel)}

    def __len__(self) -> int:
        return len(self._data)

    def values(self, column: str) -> list[Any]:
        return list(self._plain[column])

    def value(self, row: int, column: str) -> Any:
        return self._plain.select_columns([column])[row][column]

    def named(self, column: str, value: Any) -> Any:
        known = column in self._labels and value is not None and value >= 0
        return self._labels[column].int2str(value) if known else value

    def write(self, target: Path, placed: Sequence[Placed], source: str | None = None) -> list[Place]:
        import datasets

        order, places = ordered(len(self), [after for after, _ in placed])
        planted = datasets.Dataset.from_list(
            [decoded(row, self.columns) for _, row in placed], features=self._data.features
        )
        save(datasets.concatenate_datasets([self._plain, planted]).select(order), target)
        return places


def decoded(row: Row, columns: Sequence[str]) -> Row:
    """Return a row as ``datasets`` takes it: with every column, and pictures as bytes."""
    return {name: _bytes_of(row.get(name)) for name in columns}


def _bytes_of(value: Any) -> Any:
    packed = isinstance(value, dict) and value.keys() == {"base64", "suffix"}
    return {"bytes": unpacked(value)[0], "path": None} if packed else value


def save(data: Any, target: Path) -> None:
    """Save a data set of ``datasets``, without a progress bar."""
    from datasets.utils import disable_progress_bars, enable_progress_bars, is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    disable_progress_bars()
    try:
        data.save_to_disk(str(target))
    finally:
        if shown:
            enable_progress_bars()


def opened(path: Path) -> Image:
    """Return a picture, decoded.

    Raises:
        UnlearningError: It is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, UnidentifiedImageError, SyntaxError) as error:  # Pillow calls a bad PNG a SyntaxError
        raise UnlearningError(f"the picture {path} cannot be read ({error}); replace it or take it out") from None


def packed(image: Image, suffix: str, format: str) -> dict[str, str]:
    """Return a picture as the bytes of its file, in JSON's types."""
    content = io.BytesIO()
    image.save(content, format=format, **({"quality": 95} if format in ("JPEG", "WEBP") else {}))
    return {"base64": base64.b64encode(content.getvalue()).decode("ascii"), "suffix": suffix}


def unpacked(picture: Mapping[str, str]) -> tuple[bytes, str]:
    """Return the bytes of a picture's file, and the suffix of its name."""
    return base64.b64decode(picture["base64"]), picture["suffix"]
