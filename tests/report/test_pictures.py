"""Pictures show what a poison did, and nothing that it did not."""

import numpy as np
import pytest
import torch

import harness
from harness.report.pictures import GAP, NAMES, TILE, contact_sheet

LEFT, TOP = 90, 24  # of the first tile


def tile(sheet, row, column, size):
    scale = -(-TILE // size)
    x, y = LEFT + column * (size * scale + GAP), TOP + row * (size * scale + GAP)
    pixels = np.asarray(sheet)[y : y + size * scale, x : x + size * scale]
    return pixels[scale // 2 :: scale, scale // 2 :: scale]


def test_rows_are_clean_poisoned_and_the_difference_times_the_gain():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 3, 8, 8, generator=generator)
    poisoned = clean + 0.08 * torch.rand(clean.shape, generator=generator) - 0.04
    sheet = contact_sheet(clean, poisoned, [(1, 1), (2, 2), (3, 4)], gain=10)
    for row, images in enumerate((clean, poisoned, 0.5 + 10 * (poisoned - clean))):
        for column, image in enumerate(images):
            shown = torch.from_numpy(tile(sheet, row, column, 8).copy()).permute(2, 0, 1)
            expected = (image.clamp(0, 1) * 255).round()
            assert torch.equal(shown.to(torch.float32), expected)


@pytest.mark.parametrize("size", [4, 8, 32, 100])
def test_tiles_are_large_enough_to_look_at(size):
    images = torch.zeros(2, 1, size, size)
    sheet = contact_sheet(images, images, [(0, 0), (0, 0)])
    edge = size * max(1, -(-TILE // size))
    assert edge >= TILE
    assert sheet.size == (LEFT + 2 * (edge + GAP), TOP + len(NAMES) * (edge + GAP))


def test_what_does_not_change_is_grey():
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert set(tile(contact_sheet(images, images, [(0, 1)]), 2, 0, 8).flatten().tolist()) == {128}


def test_a_changed_label_is_told():
    images = torch.zeros(1, 1, 8, 8)
    kept, changed = (np.asarray(contact_sheet(images, images, [labels])) for labels in ((3, 3), (3, 5)))
    different = (kept != changed).any(axis=2)
    assert different[:TOP].any()
    assert not different[TOP:].any()


@pytest.mark.parametrize("poison", ["backdoor", "confusion", "gaussian"])
def test_any_poison_of_images_can_be_pictured(tmp_path, poison):
    sheet = harness.picture(poison, count=3, store=tmp_path)
    sheet.save(tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 500
    changed = [len(np.unique(tile(sheet, 2, column, 8))) > 1 for column in range(3)]
    assert changed == [poison != "confusion"] * 3


def test_the_same_seed_gives_the_same_picture_and_another_one_another(tmp_path):
    one, again, other = (np.asarray(harness.picture("gaussian", seed=s, store=tmp_path)) for s in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_bad_requests_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        harness.picture("gaussian", count=0, store=tmp_path)
    with pytest.raises(harness.UnlearningError, match="nothing"):
        harness.picture("nothing", store=tmp_path)
