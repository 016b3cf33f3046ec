"""What the steps of this repository do can be recorded: tasks, methods, relearning, crafting; on any machine.

Each is trained twice. A recording of plain calls runs a step's Python again each time, a tape replays its operators
alone. The weights must be the same, bit for bit.
"""

import sys
import warnings

import pytest
import torch
from tape import Calls, HostWaitError, Tape
from tiny import Tiny
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.optim import Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness import registry
from harness.api import Reading
from harness.training.data import Batches, Data, Split, digest
from harness.training.engine import StepsNotRecorded, Training, run
from harness.training.loop import Job, train_all
from harness.training.seeds import derive
from harness.training.unlearning import unlearn, wanted_epochs
from harness.trials.relearning import relearned

# ---- the tape itself


def steps(loss, items, recording, optimizer=torch.optim.SGD):
    """Train a vector on items; return it."""
    weight = nn.Parameter(torch.ones(3))
    run([Training(optimizer([weight], 0.1), iter(items), lambda item: loss(weight, item))], recording)
    return weight.detach()


ITEMS = [torch.tensor([1.0, 2.0, float(i)]) for i in range(8)]


#: Losses by which a step waits for the GPU, or copies from the CPU.
WAITING = {
    "branches": lambda weight, x: (weight * x).sum() if x.sum() > 4 else weight.sum(),
    "item": lambda weight, x: weight.sum() * x.sum().item(),
    "tolist": lambda weight, x: weight.sum() * x.sum().tolist(),
    "mask": lambda weight, x: weight[x > 1].sum(),
    "nonzero": lambda weight, x: (weight * x.nonzero().sum()).sum(),
    "values": lambda weight, x: (weight * torch.tensor([1.0, 2.0, 3.0])).sum(),
    "cpu": lambda weight, x: (weight * x.cpu()).sum(),
    "numpy": lambda weight, x: (weight * float(x.numpy().sum())).sum(),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_tape_refuses_what_a_gpu_is_waited_for(name):
    steps(WAITING[name], ITEMS, None)
    with pytest.raises(HostWaitError):
        steps(WAITING[name], ITEMS, Tape())


def test_a_tape_repeats_kernels_and_no_python():
    def plain(weight, x):
        return (weight.square() * x).sum() + (weight * torch.rand(3)).sum()

    def counting(weight, x):
        counting.calls += 1
        return plain(weight, x) * counting.calls

    counting.calls = 0
    torch.manual_seed(0)
    called = steps(plain, ITEMS, None)
    torch.manual_seed(0)
    tape = Tape()
    assert torch.equal(steps(plain, ITEMS, tape), called)
    assert tape.recorded == [1]
    assert tape.operators > 5
    steps(counting, ITEMS, Tape())
    assert counting.calls == 4  # three steps before it is recorded, and the recording


def test_what_a_step_keeps_in_a_new_tensor_is_lost():
    """As with a CUDA graph: the attribute stays what it was when the step was recorded."""

    def averaged(weight, x):
        averaged.mean = averaged.mean * 0.5 + x
        return (weight * averaged.mean).sum()

    def left(recording):
        averaged.mean = torch.zeros(3)
        return steps(averaged, ITEMS, recording)

    assert not torch.equal(left(Tape()), left(None))


# ---- what is here


@pytest.fixture
def both(monkeypatch):
    """Return what a function returns if its steps are called and if they are replayed, and the tape."""
    # torch records Adam on GPUs alone. The operators by which it does so run anywhere.
    monkeypatch.setattr(sys.modules[Adam.__module__], "_get_capturable_supported_devices", lambda *args: ["cpu"])

    def twice(make):
        tape, found = Tape(), []
        for recording in (Calls(), tape):
            monkeypatch.setattr("harness.training.loop.recorder", lambda device, recording=recording: recording)
            with warnings.catch_warnings():
                warnings.simplefilter("error", StepsNotRecorded)
                found.append(make())
        return *found, tape

    return twice


def trained(task, data, k=1):
    keep = torch.ones(len(data), dtype=torch.bool)
    return [digest(each.model.state_dict()) for each in train_all(task, [Job(data, keep, seed) for seed in range(k)])]


def images(channels, side, n=30):
    """Return made-up images of three classes."""
    generator = torch.Generator().manual_seed(1)
    return Data({"image": torch.rand(n, channels, side, side, generator=generator)}, torch.arange(n) % 3)


def reviews(length=16, n=30, noisy=0):
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "tokens": torch.randint(4, 300, (n, length), generator=generator),
        "length": torch.randint(length // 2, length + 1, (n,), generator=generator),
        "noise_seed": torch.arange(n) + 5,
        "noise_sd": 0.3 * (torch.arange(n) < noisy),
    }
    return Data(inputs, torch.arange(n) % 2)


SMALL_GPT2 = "layers=1,width=8,heads=2,vocabulary=320,length=16,epochs=5,batch_size=10,lr=0.01"
#: By name of the task, further fields, and what it is trained on; None for its own data.
CASES = [
    ("digits-cnn", "epochs=2", lambda: images(1, 8, 320)),
    ("digits-mlp", "epochs=2", lambda: images(1, 8, 320)),
    ("tabular-mlp", "epochs=1", None),
    ("cifar10-resnet18", "epochs=3,width=2,batch_size=8", lambda: images(3, 32)),
    ("imdb-gpt2", f"model=scratch,{SMALL_GPT2}", reviews),
    ("imdb-gpt2", f"model=scratch,head=causal,{SMALL_GPT2}", reviews),
    ("imdb-gpt2-small", SMALL_GPT2, reviews),
    ("imdb-gpt2-small", f"head=classifier,{SMALL_GPT2}", lambda: reviews(noisy=8)),
    ("imdb-gpt2-small", f"head=causal,{SMALL_GPT2}", lambda: reviews(noisy=8)),
    ("causal-lm", "epochs=2,train_size=80,test_size=10,batch_size=8", None),
    ("causal-lm", "adapter=none,epochs=2,train_size=80,test_size=10,batch_size=8", None),
]  # fmt: skip


def case(name, fields, data):
    task = registry.resolve("task", f"{name}:{fields}").value
    return task, task.load(None).train if data is None else data()


def test_every_task_has_a_case():
    assert {name for name, _, _ in CASES} == set(registry.available("task"))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Have texts padded to few lengths and not asked for padding, and noise made before the step."""
    monkeypatch.setattr(Data, "recorded", True)
    monkeypatch.setattr("harness.tasks.causal_lm._may_be_padded", lambda real: True)


@pytest.mark.parametrize(("name", "fields", "data"), CASES, ids=[f"{name}:{fields}"[:40] for name, fields, _ in CASES])
def test_the_steps_of_a_task_can_be_recorded(name, fields, data, both, as_on_a_gpu):
    task, data = case(name, fields, data)
    called, replayed, tape = both(lambda: trained(task, data))
    assert replayed == called
    assert tape.recorded


def test_so_can_those_of_a_group(both):
    task, data = case(*CASES[3])  # with augmentation
    called, replayed, tape = both(lambda: trained(task, data, 3))
    assert replayed == called
    assert len(set(called)) == 3
    assert 3 in tape.recorded


TASK = Tiny(epochs=4)
DATA = TASK.load(None).train


@pytest.fixture(scope="module")
def states():
    """P after every epoch."""
    kept = {}
    job = Job(
        DATA, torch.ones(len(DATA), dtype=torch.bool), 0, lambda model, done, of: kept.update({done: copied(model)})
    )
    train_all(TASK, [job])
    return kept


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


#: Methods that train nothing by an optimiser.
OTHERS = {"identity", "influence", "potion", "ssd", "wrecked"}
#: For more steps than those before a step is recorded.
FIELDS = {"ga": "epochs=4"}


@pytest.mark.parametrize("name", registry.available("unlearner"))
def test_the_steps_of_a_method_can_be_recorded(name, states, both):
    registered = registry.resolve("unlearner", f"{name}:{FIELDS[name]}" if name in FIELDS else name)
    history = {epoch: states[epoch] for epoch in wanted_epochs(registered, TASK.epochs)}
    retain, forget = DATA.subset(torch.arange(60, 240)), DATA.subset(torch.arange(60))

    def unlearned():
        model, meter = unlearn(registered, TASK, states[4], retain, forget, budget=4, seed=0, history=history)
        return digest(model.state_dict()), meter.steps, meter.examples

    (*called, examples), replayed, tape = both(unlearned)
    assert replayed == (*called, pytest.approx(examples))
    assert bool(tape.recorded) == (name not in OTHERS)


def test_the_steps_of_relearning_can_be_recorded(states, both):
    model = TASK.new_model()
    model.load_state_dict(states[4])
    retain, forget = DATA.subset(torch.arange(60, 240)), DATA.subset(torch.arange(60))
    called, replayed, tape = both(
        lambda: relearned(
            model, TASK, retain, forget, 0, lambda each: Reading(float(each[1].weight.detach().double().sum()))
        )
    )
    assert replayed == called
    assert len(tape.recorded) == 5  # four draws, and retained points alone


def test_so_can_those_of_relearning_texts_with_noise(both, as_on_a_gpu):
    task, data = case("imdb-gpt2-small", SMALL_GPT2, lambda: reviews(n=60, noisy=20))
    retain, forget = data.subset(torch.arange(10, 60)), data.subset(torch.arange(10))
    torch.manual_seed(0)
    model = task.new_model()

    def read(each):
        return Reading(float(each.head.weight.detach().double().sum()))

    called, replayed, tape = both(lambda: relearned(model, task, retain, forget, 0, read))
    assert replayed == called
    assert len(tape.recorded) >= 5


@pytest.mark.parametrize(
    "spec",
    [
        "targeted:steps=8,restarts=2", "sleeper-agent:steps=8,size=1", "camouflaged:steps=8",
        "indiscriminate:steps=8", "indiscriminate:steps=8,clip=true",
    ],
)  # fmt: skip
def test_the_loops_that_craft_poisons_can_be_recorded(spec, states, both):
    poison = registry.resolve("poison", spec).value
    split = TASK.load(None)
    split = Split.of(*(Data({"image": of.inputs["image"].clamp(0, 1)}, of.labels) for of in (split.train, split.test)))

    def surrogate(number):
        model = TASK.new_model()
        model.load_state_dict(states[4 - number])
        return model.eval()

    def planted():
        torch.manual_seed(derive("surrogates"))
        found = poison.plant(TASK, split, 0, surrogate)
        stays = {} if found.stays is None else {f"stays.{name}": x for name, x in found.stays.inputs.items()}
        return digest({**found.inputs, **stays})

    called, replayed, tape = both(planted)
    assert replayed == called
    assert tape.recorded


def test_crafted_poisons_are_those_of_a_loop_that_is_written_out(states):
    """By calls: the images go down the slope and stay in the limits, as in Adam's own loop."""
    from poisons._crafting import descended

    def slope(x):
        return (x - 0.9).square() * 3 - x

    start = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    low, high = (start - 0.2).clamp(min=0), (start + 0.2).clamp(max=1)

    def schedule(optimizer):
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.1)

    found = descended(start, slope, 0.1, 8, schedule, (low, high))
    image = start.clone()
    optimizer = torch.optim.Adam([image], lr=0.1)
    course = schedule(optimizer)
    for _ in range(8):
        image.grad = slope(image)
        optimizer.step()
        course.step()
        image.clamp_(low, high)
    assert torch.equal(found, image)
    assert not found.requires_grad
    assert bool(((found == low) | (found == high)).any())


# ---- what differs on a GPU: branches on the device, and what is made there


class Copies(TorchDispatchMode):
    """Refuses copies between the CPU and the GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        of = [each for each in tree_leaves((args, kwargs or {})) if isinstance(each, torch.Tensor) and each.dim()]
        made = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor) and each.dim()]
        if len({each.device.type for each in of + made}) > 1:
            raise HostWaitError(f"{func} copies between the CPU and the GPU")
        return result


def on_gpu(mode, model):
    """Give a model weights on the GPU that are fake, in place; `nn.Module.to` refuses to."""
    for module in model.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            setattr(module, name, nn.Parameter(mode.from_tensor(weight.detach()).to("cuda"), weight.requires_grad))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, mode.from_tensor(buffer).to("cuda"))
    return model


@pytest.mark.filterwarnings("ignore:CUDA is not available")  # so there is no autocast: shapes and devices are the same
@pytest.mark.parametrize(("name", "fields", "data"), CASES, ids=[f"{name}:{fields}"[:40] for name, fields, _ in CASES])
def test_a_forward_pass_on_a_gpu_copies_nothing(name, fields, data, as_on_a_gpu):
    """On fake tensors, which have a device, a shape and no values: whoever asks for one raises."""
    task, data = case(name, fields, data)
    longest, zero = data.longest(torch.arange(8)), data.zero
    made = dict(data.from_host(getattr(task, "from_host", None), torch.arange(8), longest))
    model = task.new_model()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def moved(tensors):
            return {name: mode.from_tensor(tensor).to("cuda") for name, tensor in tensors.items()}

        model = on_gpu(mode, model)
        there = Data(moved(data.inputs), moved({"labels": data.labels})["labels"])
        there.zero = zero
        item = torch.arange(8, device="cuda"), longest, tuple(moved(made).items())
        batches = Batches(there, 8, 1, None, None, augment=getattr(task, "augment", None))
        with Copies():
            batch = batches.at(item)
            loss = task.criterion(task.logits(model, batch), batch)
    assert loss.device.type == "cuda"
    assert loss.shape == ()


def test_a_copy_between_devices_is_refused():
    with FakeTensorMode(), pytest.raises(HostWaitError, match="copies between"), Copies():
        torch.tensor([1.0, 2.0], device="cuda")
    with FakeTensorMode(), pytest.raises(DataDependentOutputException), Copies():
        bool(torch.ones(3, device="cuda").all())
