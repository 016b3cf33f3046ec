"""Data on the device, their digests, and the order in which they are seen."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import ForgetRequest, Planted, UnlearningError
from harness.training.data import Batches, Data, Split, digest, forget_block

N = 23


@pytest.fixture
def data():
    return Data({"image": torch.arange(N * 4.0).reshape(N, 4), "mask": torch.ones(N, 2)}, torch.arange(N))


def seen(batches):
    """Return the labels of batches, which are the indices, as lists."""
    return [batch.labels.tolist() for batch in batches]


def flat(batches):
    return [label for batch in seen(batches) for label in batch]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- digests


def test_equal_tensors_have_equal_digests():
    a = {"x": torch.arange(6).reshape(2, 3), "y": torch.ones(2)}
    b = {"y": torch.ones(2), "x": torch.arange(6).reshape(3, 2).reshape(2, 3)}
    assert digest(a) == digest(b)
    strided = {"x": torch.arange(6).reshape(2, 3).t().contiguous().t(), "y": torch.ones(2)}
    assert digest(a) == digest(strided)


@pytest.mark.parametrize(
    "other",
    [
        {"z": torch.zeros(4)},
        {"x": torch.zeros(2, 2)},
        {"x": torch.zeros(4, dtype=torch.int32)},
        {"x": torch.zeros(4, dtype=torch.float64)},
        {"x": torch.tensor([0.0, 0, 0, 1e-45])},
        {"x": torch.tensor([0.0, 0, 0, -0.0])},
        {"x": torch.zeros(5)},
        {"x": torch.zeros(4), "y": torch.zeros(0)},
        {},
    ],
    ids=["name", "shape", "type", "wider type", "last bit", "sign of zero", "length", "an empty one", "none"],
)
def test_names_shapes_types_and_bytes_change_a_digest(other):
    assert digest({"x": torch.zeros(4)}) != digest(other)


def test_the_digest_tells_apart_which_tensor_holds_what():
    a, b = torch.zeros(2), torch.ones(2)
    assert digest({"x": a, "y": b}) != digest({"x": b, "y": a})


def test_a_fingerprint_covers_training_and_test_data(data):
    first = Split.of(data.subset(torch.arange(10)), data.subset(torch.arange(10, N)))
    assert first.fingerprint == Split.of(data.subset(torch.arange(10)), data.subset(torch.arange(10, N))).fingerprint
    assert first.fingerprint != Split.of(first.test, first.train).fingerprint
    for part in ("train", "test"):
        for change in ("labels", "image", "mask"):
            parts = {name: getattr(first, name).subset(torch.arange(10)) for name in ("train", "test")}
            same = Split.of(**parts).fingerprint
            changed = parts[part]
            (changed.labels if change == "labels" else changed.inputs[change])[-1] += 1
            assert Split.of(**parts).fingerprint != same


# ---- batches


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5, 5, 5, 5, 3]), (23, [23]), (100, [23]), (1, [1] * 23)])
def test_a_pass_sees_every_example_once_with_a_short_last_batch(data, batch_size, sizes):
    batches = data.batches(batch_size, 1, generator())
    found = seen(batches)
    assert [len(labels) for labels in found] == sizes
    assert len(batches) == len(sizes)
    assert sorted(label for labels in found for label in labels) == list(range(N))


def test_passes_are_shuffled_afresh(data):
    batches = data.batches(5, 3, generator())
    assert len(batches) == 15
    order = flat(batches)
    passes = [order[i : i + N] for i in (0, N, 2 * N)]
    assert all(sorted(p) == list(range(N)) for p in passes)
    assert len({tuple(p) for p in passes}) == 3
    assert list(range(N)) not in passes


def test_a_batch_holds_the_rows_that_its_index_names(data):
    for batch in data.batches(5, 1, generator()):
        assert len(batch) == len(batch.labels) == len(batch.index)
        assert torch.equal(batch.inputs["image"], data.inputs["image"][batch.index])
        assert torch.equal(batch.labels, data.labels[batch.index])


def test_the_order_repeats_by_the_generator(data):
    assert seen(data.batches(5, 2, generator(3))) == seen(data.batches(5, 2, generator(3)))
    assert seen(data.batches(5, 2, generator(3))) != seen(data.batches(5, 2, generator(4)))


def test_iterating_again_draws_a_new_order(data):
    batches = data.batches(5, 1, generator())
    assert flat(batches) != flat(batches)


def test_the_global_random_state_is_not_touched(data):
    before = torch.get_rng_state()
    list(data.batches(5, 2, generator()))
    forget_block(10, 0.5, 0)
    assert torch.equal(before, torch.get_rng_state())


@given(st.sets(st.integers(0, N - 1), max_size=N - 1), st.integers(1, 30), st.integers(1, 3), st.integers(0, 99))
def test_common_examples_come_in_the_same_order_with_and_without_the_others(dropped, batch_size, epochs, seed):
    data = Data({"x": torch.zeros(N, 1)}, torch.arange(N))
    keep = torch.tensor([i not in dropped for i in range(N)])
    everything = flat(Batches(data, batch_size, epochs, generator(seed), torch.ones(N, dtype=torch.bool)))
    rest = Batches(data, batch_size, epochs, generator(seed), keep)
    found = seen(rest)
    assert [i for i in everything if i not in dropped] == [i for labels in found for i in labels]
    assert len(found) == len(rest)
    assert [len(b) for b in found] == expected_sizes(N - len(dropped), batch_size) * epochs


def expected_sizes(n, batch_size):
    """Return the sizes of the batches of a pass: a last one of one example joins the one before."""
    sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    return [*sizes[:-2], sum(sizes[-2:])] if len(sizes) > 1 and sizes[-1] == 1 < batch_size else sizes


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (2, [2]), (5, [2, 3]), (65, [2] * 31 + [3]), (66, [2] * 33)])
def test_a_last_batch_of_one_joins_the_one_before(n, sizes, lengths):
    inputs = {"x": torch.zeros(n, 1)} | ({"length": torch.arange(n) % 7} if lengths else {})
    batches = Data(inputs, torch.arange(n)).batches(2, 2, generator())
    found = seen(batches)
    assert sorted(map(len, found)) == sorted(sizes * 2)
    assert len(batches) == len(found) == 2 * batches.per_epoch
    assert sorted(flat(Data(inputs, torch.arange(n)).batches(2, 1, generator()))) == list(range(n))


# ---- batches up to a number of examples


@given(st.integers(0, 4 * N), st.integers(1, 30), st.integers(0, 99))
def test_so_many_examples_are_the_first_of_all_passes_and_the_last_batch_is_cut(examples, batch_size, seed):
    data = Data({"x": torch.zeros(N, 1)}, torch.arange(N))
    whole = seen(data.batches(batch_size, 4, generator(seed)))
    limited = data.batches(batch_size, 1, generator(seed), examples)
    found = seen(limited)
    alone = batch_size > 1 and examples > N and examples % N == 1  # one that would begin another pass
    assert sum(map(len, found)) == examples - alone
    assert len(limited) == len(found)
    last = max(0, len(found) - 1)
    assert found[:last] == whole[:last]
    in_order = [label for labels in whole for label in labels]
    assert [label for labels in found for label in labels] == in_order[: examples - alone]


@pytest.mark.parametrize(
    ("examples", "sizes"),
    [
        (0, []),
        (1, [1]),
        (5, [5]),
        (7, [5, 2]),
        (23, [5, 5, 5, 5, 3]),
        (21, [5, 5, 5, 6]),
        (24, [5, 5, 5, 5, 3]),  # the one that would begin another pass is left out
        (29, [5, 5, 5, 5, 3, 6]),
        (30, [5, 5, 5, 5, 3, 5, 2]),
    ],
)
def test_the_sizes_of_batches_up_to_so_many_examples(data, examples, sizes):
    batches = data.batches(5, 1, generator(), examples)
    assert [len(labels) for labels in seen(batches)] == sizes
    assert len(batches) == len(sizes)


def test_passes_of_batches_up_to_so_many_examples_are_whole_until_the_last(data):
    order = flat(data.batches(5, 1, generator(), 2 * N + 4))
    assert sorted(order[:N]) == sorted(order[N : 2 * N]) == list(range(N))
    assert order[:N] != order[N : 2 * N]
    assert len(set(order[2 * N :])) == 4


@pytest.mark.parametrize(("examples", "total"), [(None, 2 * 9), (100, 2 * 9), (18, 18), (13, 13), (4, 4), (0, 0)])
def test_a_number_of_examples_ends_the_passes_and_never_adds_to_them(data, examples, total):
    keep = torch.zeros(N, dtype=torch.bool)
    keep[:9] = True
    whole = flat(Batches(data, 5, 2, generator(3), keep))
    limited = Batches(data, 4, 2, generator(3), keep, examples)
    assert flat(limited) == whole[:total]
    assert len(limited) == len(seen(limited)) == total // 9 * 2 + -(-(total % 9) // 4)
    assert limited.per_epoch == 2


def test_iterating_again_over_so_many_examples_draws_others(data):
    batches = data.batches(5, 1, generator(), 6)
    assert flat(batches) != flat(batches)


def request(batch_size=5, budget=1.0):
    everything = {"x": torch.zeros(N, 1)}

    recipe = SimpleNamespace(batch_size=batch_size)
    retain, forget = Data(everything, torch.arange(N)), Data({"x": torch.zeros(4, 1)}, 100 + torch.arange(4))
    return ForgetRequest(retain, forget, budget, generator(), torch.device("cpu"), recipe)


def test_a_request_hands_on_what_it_is_asked_for():
    assert [len(b) for b in request().batches("retain", examples=7)] == [5, 2]
    assert [len(b) for b in request().batches("retain", batch_size=3, examples=7)] == [3, 4]
    assert [len(b) for b in request().batches("forget", examples=6)] == [4, 2]
    assert [len(b) for b in request().batches("forget", epochs=2)] == [4, 4]
    assert [len(b) for b in request().batches("retain", epochs=9, examples=6)] == [6]  # in place of epochs
    assert [len(b) for b in request().batches("retain", examples=0)] == []
    assert flat(request().batches("retain", examples=30)) == flat(request().batches("retain", epochs=2))[:30]
    assert min(flat(request().batches("forget", examples=6))) >= 100


def test_a_recipe_may_change_every_batch_that_is_trained_on(data):
    def upside_down(batch):
        return replace(batch, inputs={name: -tensor for name, tensor in batch.inputs.items()})

    plain, changed = (list(data.batches(5, 2, generator(), 30, augment)) for augment in (None, upside_down))
    assert len(changed) == len(plain) == 7
    for one, other in zip(plain, changed, strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(other.inputs["image"], -data.inputs["image"][one.index])
    given = request()
    given._recipe.augment = upside_down
    given.retain.inputs["x"] += 1
    assert all(bool((batch.inputs["x"] == -1).all()) for batch in given.batches("retain"))


def test_an_empty_set_has_no_batches(data):
    empty = data.subset(torch.empty(0, dtype=torch.int64))
    assert len(empty) == 0
    assert len(empty.batches(5, 2, generator())) == 0
    assert seen(empty.batches(5, 2, generator())) == []
    assert len(empty.batches(5, 1, generator(), 7)) == 0
    assert seen(empty.batches(5, 1, generator(), 7)) == []
    assert seen(empty.chunks()) == []


def test_chunks_go_through_everything_in_order(data):
    chunks = list(data.chunks(10))
    assert [len(c) for c in chunks] == [10, 10, 3]
    assert torch.cat([c.index for c in chunks]).tolist() == list(range(N))


def test_data_are_a_torch_dataset(data):
    inputs, labels = next(iter(torch.utils.data.DataLoader(data, batch_size=4)))
    assert torch.equal(inputs["image"], data.inputs["image"][:4])
    assert labels.tolist() == [0, 1, 2, 3]
    assert len(torch.utils.data.DataLoader(data, batch_size=4)) == 6


# ---- copies


@pytest.fixture
def planted():
    return Planted(
        torch.tensor([2, 7]),
        {"image": torch.full((2, 4), -1.0), "mask": torch.zeros(2, 2)},
        torch.tensor([-5, -6]),
    )


def test_planted_points_replace_the_clean_ones_and_nothing_else(data, planted):
    poisoned = data.poisoned_with(planted)
    others = [i for i in range(N) if i not in (2, 7)]
    assert torch.equal(poisoned.inputs["image"][[2, 7]], planted.inputs["image"])
    assert torch.equal(poisoned.inputs["mask"][[2, 7]], planted.inputs["mask"])
    assert poisoned.labels[[2, 7]].tolist() == [-5, -6]
    assert torch.equal(poisoned.inputs["image"][others], data.inputs["image"][others])
    assert torch.equal(poisoned.labels[others], data.labels[others])


def test_poisoning_leaves_the_original_as_it_was(data, planted):
    inputs, labels = {name: t.clone() for name, t in data.inputs.items()}, data.labels.clone()
    poisoned = data.poisoned_with(planted)
    for tensor in (*poisoned.inputs.values(), poisoned.labels):
        tensor.zero_()
    assert all(torch.equal(data.inputs[name], t) for name, t in inputs.items())
    assert torch.equal(data.labels, labels)
    assert planted.labels.tolist() == [-5, -6]
    assert bool((planted.inputs["image"] == -1).all())


@pytest.mark.parametrize(
    "part", [lambda d: d.subset(torch.arange(N)), lambda d: d.batch(torch.arange(N))], ids=["subset", "batch"]
)
def test_parts_are_copies(data, part):
    copied = part(data)
    copied.inputs["image"].zero_()
    copied.labels.zero_()
    assert data.labels.tolist() == list(range(N))
    assert data.inputs["image"][1].tolist() == [4, 5, 6, 7]


# ---- forget blocks


@given(st.integers(2, 300), st.floats(0.001, 0.7), st.integers(0, 2**40))
def test_a_forget_block_is_a_sorted_sample_of_the_stated_size(n, fraction, seed):
    block = forget_block(n, fraction, seed)
    assert block.dtype == torch.int64
    assert len(block) == max(1, round(fraction * n))
    assert bool((block.diff() > 0).all())
    assert int(block[0]) >= 0
    assert int(block[-1]) < n
    assert torch.equal(block, forget_block(n, fraction, seed))


@pytest.mark.parametrize(("n", "fraction"), [(240, 0.999), (1, 0.5), (10, 0.96), (10, 1)])
def test_a_block_of_all_points_is_refused(n, fraction):
    with pytest.raises(UnlearningError, match=f"fraction={fraction:g} of {n} training points is all of them"):
        forget_block(n, fraction, 0)


@given(st.integers(0, 2**40), st.floats(0.05, 0.9), st.floats(0.05, 0.9))
def test_a_smaller_block_lies_in_the_larger_one(seed, a, b):
    small, large = (set(forget_block(200, f, seed).tolist()) for f in sorted((a, b)))
    assert small <= large


def test_blocks_of_different_seeds_differ():
    assert len({tuple(forget_block(200, 0.1, seed).tolist()) for seed in range(30)}) == 30


def test_every_point_is_as_likely_to_be_taken():
    counts = torch.zeros(40)
    for seed in range(2000):
        counts[forget_block(40, 0.25, seed)] += 1
    # Binomial(2000, 1/4): sd 19.4; 40 points stay within 4 sd of 500 but for one draw in 400.
    assert float((counts - 500).abs().max()) < 4 * 19.4


# ---- what a GPU asks for


@pytest.fixture
def texts(monkeypatch):
    """Texts of 1 to 64 tokens, as they are on a GPU: padded to few lengths, and with what the CPU makes for a batch."""
    monkeypatch.setattr(Data, "recorded", True)
    inputs = {"tokens": torch.zeros(64, 64), "length": torch.arange(64) + 1, "none": torch.zeros(64)}
    return Data(inputs, torch.arange(64))


def test_batches_of_texts_have_few_lengths(texts):
    lengths = {texts.longest(torch.tensor([i])) for i in range(64)}
    assert lengths == {8, 16, 24, 32, 40, 48, 56, 64}
    assert all(batch.inputs["length"].max() <= batch.longest for batch in texts.batches(5, 2, generator()))


def test_what_the_cpu_makes_for_a_batch_is_among_its_inputs(texts, monkeypatch):
    def make(numbers, longest, device):
        assert numbers.keys() == {"length"}
        assert longest >= int(numbers["length"].max())
        return {"twice": (2 * numbers["length"]).to(device)}

    batches = texts.batches(5, 1, generator(), from_host=make)
    for batch in batches:
        assert torch.equal(batch.inputs["twice"], 2 * batch.inputs["length"])
    monkeypatch.setattr(Data, "recorded", False)
    assert all("twice" not in batch.inputs for batch in batches)
