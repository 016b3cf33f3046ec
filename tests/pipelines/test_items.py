"""Torch data sets: they stay where they are, or their pictures are held so that poisons can change them."""

from __future__ import annotations

import pytest
import torch
from labs import lab_in
from PIL import Image
from torch import nn

from harness import Pipeline, UnlearningError, registry
from harness.cells import Cell, Trial

N = 60
LABELS = torch.arange(N) % 2
PICTURES = (torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + LABELS.view(-1, 1, 1, 1)) / 3


class Drawn(torch.utils.data.Dataset):
    """Pictures that are mirrored at random whenever they are read, if ``mirrored``."""

    def __init__(self, mirrored: bool = False, sizes: int = 1) -> None:
        self.mirrored, self.sizes, self.read = mirrored, sizes, 0

    def __len__(self):
        return N

    def __getitem__(self, place):
        self.read += 1
        picture = PICTURES[place, :, : 6 - place % self.sizes]
        flip = self.mirrored and bool(torch.rand(()) < 0.5)
        return (picture.flip(2) if flip else picture), int(LABELS[place])


class Raw(Drawn):
    """Pictures of Pillow, as a data set without a transform has them."""

    def __getitem__(self, place):
        return Image.new("L", (6, 6), int(place)), int(LABELS[place])


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))


def train(data, seed):
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(15):
        pictures, labels = next(iter(torch.utils.data.DataLoader(data, batch_size=len(data))))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures), labels).backward()
        optimizer.step()
    return model


def pipeline(data, **more):
    return Pipeline(lambda: (data, data), train, model=network, **more)


def readings(folder, task, poison):
    kinds = registry.resolve("unlearner", "identity"), registry.register("task", task)
    return lab_in(folder).run(Trial(Cell(*kinds, registry.resolve("poison", poison)), 0)).readings["poison"]


@pytest.mark.parametrize("poison", ["backdoor:fraction=0.2,size=2", "gaussian:fraction=0.2"])
def test_pictures_of_a_data_set_can_be_poisoned_if_they_are_said_to_be_pictures(tmp_path, poison):
    task = pipeline(Drawn(), kind="image")

    found = readings(tmp_path, task, poison)

    assert task.modality == "image"
    assert found["P"].value > found["R"].value
    assert "none of the task's inputs" not in task.refuses(poison)
    assert pipeline(Drawn()).modality == "rows"


class Arrays(Drawn):
    """Pictures as arrays of numpy."""

    def __getitem__(self, place):
        picture, label = super().__getitem__(place)
        return picture.numpy(), label


def test_poisoned_pictures_are_of_the_type_of_the_others(tmp_path):
    task = pipeline(Arrays(), kind="image")
    poison = registry.resolve("poison", "backdoor:fraction=0.2,size=2").value
    planted = poison.plant(task, task.load(None), 0)
    rows = task.rows(task.load(None).train.poisoned_with(planted), labelled=True)
    assert {type(rows[place][0]).__name__ for place in range(N)} == {"ndarray"}
    first = int(planted.forget[0])
    both = torch.utils.data.Subset(rows, [first, next(i for i in range(N) if i not in planted.forget.tolist())])
    pictures, _ = next(iter(torch.utils.data.DataLoader(both, batch_size=2)))
    assert torch.equal(pictures[0], planted.inputs["image"][0])


def test_pictures_that_no_poison_changed_are_drawn_anew():
    task = pipeline(Drawn(mirrored=True), kind="image")
    train_set = task.load(None).train
    poison = registry.resolve("poison", "backdoor:fraction=0.2,size=2").value
    planted = poison.plant(task, task.load(None), 0)

    rows = task.rows(train_set.poisoned_with(planted), labelled=True)
    drawn = [torch.stack([rows[place][0] for place in range(N)]) for _ in range(2)]
    again = (drawn[0] == drawn[1]).flatten(1).all(dim=1)

    assert again[planted.forget].all()
    assert not again.all()
    assert torch.equal(drawn[0][planted.forget], planted.inputs["image"])
    assert torch.equal(torch.as_tensor(rows.targets)[planted.forget], planted.labels)
    assert torch.equal(rows[-1][0].sort().values, rows[N - 1][0].sort().values)
    with pytest.raises(IndexError):
        rows[N]


@pytest.mark.parametrize("kind", [None, "image"])
def test_data_that_are_drawn_at_random_are_known_again(kind):
    def fingerprint():
        return pipeline(Drawn(mirrored=True), kind=kind).load(None).fingerprint

    torch.manual_seed(1)
    first = fingerprint()
    torch.manual_seed(2)

    assert fingerprint() == first


def test_a_data_set_is_not_read_twice_to_hold_it():
    data = Drawn()
    pipeline(data, kind="image").load(None)

    assert data.read <= 4 * N  # labels and pictures, of both sets


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (Drawn(sizes=2), "pictures of shape (1, 6, 6) and of shape (1, 5, 6)"),
        (Raw(), "pictures of type Image; with kind"),
    ],
)
def test_pictures_that_cannot_be_held_are_refused_in_a_sentence(data, sentence):
    with pytest.raises(UnlearningError) as refused:
        pipeline(data, kind="image").load(None)

    assert sentence in str(refused.value)


@pytest.mark.parametrize("data", [Drawn(sizes=2), Raw()])
def test_pictures_that_make_no_batch_are_predicted_as_a_list(data):
    seen = []
    task = pipeline(data, predict=lambda model, inputs: seen.append(inputs) or torch.zeros(len(inputs), 2))

    task.logits(task.new_model(), task.load(None).test.batch(torch.arange(3)))

    (batch,) = seen
    assert isinstance(batch, list)
    assert len(batch) == 3
