"""Pictures of what a poison did to images. Whatever needs torch is imported when a picture is made."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.api import Planted, UnlearningError
from harness.cells import Cell, Trial
from harness.conventions import main_input
from harness.report.document import methods, places
from harness.studies.controls import ORACLE

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from harness.trials.lab import Lab

TILE = 72  # pixels of a tile, at least
GAP = 6
NAMES = ("clean", "poisoned", "difference")


@dataclass(frozen=True)
class Picture:
    """What a poison did, as a file.

    Attributes:
        png: A PNG file.
        seed: The draw of the poison that it shows.
    """

    png: bytes
    seed: int

    @property
    def uri(self) -> str:
        """The picture as an address that contains all of it."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def picture(
    poison: str,
    *,
    task: str = "digits-cnn",
    seed: int = 0,
    count: int = 8,
    gain: float = 10,
    store: str | Path | None = None,
    data: str | Path | None = None,
    device: str = "auto",
) -> Image:
    """Return a picture of poisoned images: in a column each, the clean image, the poisoned one and the difference.

    ``harness.picture("targeted").save("targeted.png")``. A poison that must be crafted is crafted unless the store has
    it.

    Args:
        poison: Spec of a poison of images.
        task: Spec of a task with images.
        seed: Which draw of the poison; audits use 0 to 15, or drawn ones.
        count: Images to show, the first of the forget set, at least 1.
        gain: Factor of the difference; grey is no difference.
        store: As for `harness.audit`.
        data: As for `harness.audit`.
        device: As for `harness.audit`.

    Raises:
        UnlearningError: A name cannot be found or used, or the task has no images.
        ValueError: ``count`` is out of range.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    (cell,) = registry.cells([registry.resolve("unlearner", ORACLE)], [registry.resolve("task", task)], [poison])
    if cell.task.value.modality != "image":
        raise UnlearningError(f"{cell.task.id} has {cell.task.value.modality}, not images; choose a task of images")
    from harness.store.artefacts import patiently
    from harness.trials.lab import Lab, new_run

    lab = Lab.open(store, data=data, device=device, run=new_run("picture"))
    planted = patiently(lambda: lab.planted(Trial(cell, seed)))
    return _sheet(lab, cell, planted, count, gain)


def stored_picture(lab: Lab, task: str, poison: str, seed: int = 0, count: int = 8) -> Image | None:
    """Return such a picture from the lab's store; None if the store lacks it or it is not of images. Crafts nothing.

    Raises:
        UnlearningError: A name cannot be found or used, or the task's data cannot be loaded.
    """
    (cell,) = registry.cells([registry.resolve("unlearner", ORACLE)], [registry.resolve("task", task)], [poison])
    if cell.task.value.modality != "image":
        return None
    planted, _ = lab.stored(Trial(cell, seed))
    return None if planted is None else _sheet(lab, cell, planted, count)


def _sheet(lab: Lab, cell: Cell, planted: Planted, count: int, gain: float = 10) -> Image:
    clean = lab.split(cell.task).train.batch(planted.forget[:count])
    name = main_input(clean.inputs)
    labels = list(zip(clean.labels.tolist(), planted.labels[:count].tolist(), strict=True))
    return contact_sheet(clean.inputs[name].cpu(), planted.inputs[name][:count].cpu(), labels, gain)


def contact_sheet(clean: Tensor, poisoned: Tensor, labels: list[tuple[int, int]], gain: float = 10) -> Image:
    """Return the picture of given images.

    Args:
        clean: Shape (n, 1 or 3, height, width), in [0, 1].
        poisoned: The same shape; values outside [0, 1] are shown as black or white.
        labels: For each image its label before and after.
        gain: Factor of the difference.
    """
    import torch
    from PIL import Image as Images
    from PIL import ImageDraw

    n, _, height, width = clean.shape
    scale = max(1, -(-TILE // max(height, width)))
    left, top = 90, 24
    across, down = width * scale + GAP, height * scale + GAP
    sheet = Images.new("RGB", (left + n * across, top + len(NAMES) * down), "#dde3ea")
    draw = ImageDraw.Draw(sheet)
    for row, images in enumerate((clean, poisoned, 0.5 + gain * (poisoned - clean))):
        name = NAMES[row] if row < 2 else f"{NAMES[row]} x {gain:g}"
        draw.text((GAP, top + row * down + height * scale // 2), name, fill="black", anchor="lm")
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
        for column, image in enumerate(pixels):
            tile = Images.fromarray(image.contiguous().numpy()).resize((width * scale, height * scale), 0)
            sheet.paste(tile, (left + column * across, top + row * down))
    for column, (before, after) in enumerate(labels):
        text = f"{before}" if before == after else f"{before} to {after}"
        draw.text((left + column * across + width * scale // 2, top // 2), text, fill="black", anchor="mm")
    return sheet


def pictures_of(document: Mapping[str, Any], device: str = "auto") -> dict[tuple[str, str], Picture]:
    """Return pictures of what was planted, by task and poison, from the store of a result; those it lacks are left out.

    Nothing is trained or crafted for them, and no store is created.
    """
    settings = document.get("run", {}).get("settings", {})
    planted = places(methods(document))
    store = settings.get("store")
    if not planted or not store or ("://" not in store and not Path(store).is_dir()):
        return {}
    from harness.trials.lab import Lab, new_run

    found = {}
    try:
        lab = Lab.open(store, data=settings.get("data"), device=device, run=new_run("report"))
    except UnlearningError:
        return {}
    drawn = {(a["task"], a["poison"]): a["seeds"][0] for a in reversed(document["audits"]) if a["seeds"]}
    for task, poison in planted:
        seed = drawn.get((task, poison), 0)
        try:
            sheet = stored_picture(lab, task, poison, seed)
        except Exception as error:  # of a plugin, for example: a report without one picture is better than no report
            print(f"the report has no picture of {poison} on {task}: {error}", file=sys.stderr)
            continue
        if sheet is not None:
            content = io.BytesIO()
            sheet.save(content, "PNG", optimize=True)
            found[task, poison] = Picture(content.getvalue(), seed)
    return found
