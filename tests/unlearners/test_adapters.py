"""Methods written for another harness run unchanged."""

import pytest
import torch
from tiny import Tiny

from harness import audit, examine, registry
from harness.adapters import NeurIPS2023
from harness.api import UnlearningError
from harness.contract.lines import LINES, Clause
from harness.training.data import Data
from harness.training.unlearning import unlearn

#: A submission in the style of the challenge: a file of its own, that knows nothing of this project.
SUBMISSION = """
import torch
from torch import nn, optim


def unlearning(net, retain_loader, forget_loader, val_loader):
    \"\"\"Flatten what the network says on the forget set, then repair it on the retain set.\"\"\"
    device = next(net.parameters()).device
    net.train()
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for inputs, targets in forget_loader:
        inputs = inputs.to(device)
        optimizer.zero_grad()
        scores = torch.log_softmax(net(inputs), dim=1)
        uniform = torch.full_like(scores, 1 / scores.shape[1])
        nn.functional.kl_div(scores, uniform, reduction="batchmean").backward()
        optimizer.step()
    criterion = nn.CrossEntropyLoss()
    for inputs, targets in retain_loader:
        inputs, targets = inputs.to(device), targets.to(device)
        optimizer.zero_grad()
        criterion(net(inputs), targets).backward()
        optimizer.step()
    net.eval()
"""


def problem():
    split = Tiny().load(None)
    torch.manual_seed(0)
    index = torch.arange(len(split.train))
    return Tiny().new_model().state_dict(), split.train.subset(index[24:]), split.train.subset(index[:24])


def run(function, batch_size=None, data=None, **fields):
    state, retain, forget = data or problem()
    method = registry.register("unlearner", NeurIPS2023(function, batch_size, **fields))
    return unlearn(method, Tiny(), state, retain, forget, budget=2.0, seed=0)


def test_a_published_style_method_is_audited_unchanged(folder):
    folder.write("theirs.py", SUBMISSION)
    spec = "harness.adapters:NeurIPS2023:function=theirs:unlearning"
    run = folder.pytest("--task=tiny:Tiny", "--poison=backdoor:size=1", "--audit-seeds=3", "--audit-budget=0.3",
                        f"--unlearner={spec}", contract=True)  # fmt: skip
    outcomes = {claim: audit["verdict"] for (_, _, claim), audit in run.audits.items()}
    assert set(outcomes) == {"poison", "accuracy", "cost"}
    assert "ERROR" not in outcomes.values()
    assert outcomes["cost"] == "PASS"
    # One pass over 216 retained points and one over 24 forgotten ones; retraining makes 10 over 216.
    assert run.audits[(spec, "backdoor:size=1", "cost")]["estimate"] == pytest.approx(240 / 2160)
    assert all(line["kept"] for line in run.json["contract"])
    assert len(run.json["contract"]) == len(LINES)


def test_an_edit_of_the_published_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    theirs = tmp_path / "edited.py"
    sources = []
    for text in (SUBMISSION, SUBMISSION, SUBMISSION.replace("lr=0.02", "lr=0.03")):
        theirs.write_text(text)
        sources.append(registry.resolve("unlearner", "harness.adapters:NeurIPS2023:function=edited:unlearning").source)
    assert sources[0] == sources[1] != sources[2]


def test_the_loaders_hold_what_the_request_holds():
    seen = {}

    def unlearning(net, retain_loader, forget_loader, val_loader):
        for name, loader in (("retain", retain_loader), ("forget", forget_loader), ("val", val_loader)):
            batches = list(loader)
            seen[name] = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]), len(batches[0][0])
        return net

    _, retain, forget = data = problem()
    run(unlearning, 10, data)
    for name, expected in (("retain", retain), ("forget", forget), ("val", retain)):
        images, labels, first = seen[name]
        assert first == 10
        assert images.shape == expected.inputs["image"].shape
        assert torch.allclose(images.sum(dim=0), expected.inputs["image"].sum(dim=0), atol=1e-4)
        assert labels.bincount().tolist() == expected.labels.bincount().tolist()
    assert torch.equal(seen["val"][0], retain.inputs["image"])
    assert not torch.equal(seen["retain"][0], retain.inputs["image"])


def test_a_batch_is_a_pair_and_has_the_competitions_names():
    seen = {}

    def unlearning(net, retain_loader, forget_loader, val_loader):
        for sample in val_loader:
            images, labels = sample
            assert sample["image"] is images is sample[0]
            assert sample["age_group"] is labels is sample[1]
            assert not isinstance(sample, dict)  # entries that ask unpack the pair
            seen.setdefault("images", []).append(images)
        point = retain_loader.dataset[3]
        assert torch.equal(point["image"], point[0])
        own = torch.utils.data.DataLoader(retain_loader.dataset, batch_size=50)  # as some entries build
        assert [len(sample["age_group"]) for sample in own] == [50, 50, 50, 50, 16]

    _, retain, _ = data = problem()
    run(unlearning, 10, data)
    assert torch.equal(torch.cat(seen["images"]), retain.inputs["image"])


def test_an_entry_of_the_competition_does_the_same_as_one_of_the_starting_kit():
    def trained(net, loader, parts):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for sample in loader:
            images, labels = parts(sample)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()

    forms = (lambda sample: sample, lambda sample: (sample["image"], sample["age_group"]))
    states = [run(lambda net, retain, *_, form=form: trained(net, retain, form))[0].state_dict() for form in forms]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_a_batch_lacks_is_said():
    def unlearning(net, retain_loader, *_):
        next(iter(retain_loader))["age"]

    with pytest.raises(UnlearningError, match="a batch has only 'image' and 'age_group', no 'age'"):
        run(unlearning)


def test_a_batch_has_the_index_of_its_points_where_that_is_asked_for():
    seen = []

    def unlearning(net, retain_loader, forget_loader, val_loader):
        for loader in (retain_loader, forget_loader, val_loader):
            for images, labels, index in loader:
                assert torch.equal(images, torch.stack([loader.dataset[int(i)][0] for i in index]))
                assert torch.equal(labels, torch.stack([loader.dataset[int(i)]["age_group"] for i in index]))
                seen.append(index)
            sample = next(iter(loader))
            assert sample["index"] is sample[2]
        with pytest.raises(UnlearningError, match="has only 'image' and 'age_group' and 'index', no 'age'"):
            sample["age"]

    run(unlearning, index=True)
    assert sorted(torch.cat(seen).tolist()) == sorted([*range(216), *range(24), *range(216)])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_is_held_out_is_part_of_the_retain_set_and_not_trained_on(share):
    drawn = []

    def unlearning(net, retain_loader, forget_loader, val_loader):
        loaders = retain_loader, val_loader
        drawn.append([{tuple(x.flatten().tolist()) for x, _ in loader.dataset} for loader in loaders])

    _, retain, _ = data = problem()
    run(unlearning, data=data, held_out=share)
    run(unlearning, data=data, held_out=share)
    kept, held = drawn[0]
    assert drawn[0] == drawn[1]  # it follows from the seed
    assert len(held) == round(share * 216)
    assert not kept & held
    assert kept | held == {tuple(x.flatten().tolist()) for x in retain.inputs["image"]}


def test_too_little_to_hold_out_is_said():
    with pytest.raises(UnlearningError, match=r"held_out=0\.001 of 216 points is 0; some must be on each side"):
        run(lambda *_: None, held_out=0.001)


def test_what_asks_for_a_gpu_runs_on_the_device_at_hand():
    seen = []

    def unlearning(net, retain_loader, *_):
        net = net.cuda().to("cuda:0").to(torch.device("cuda"))
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        for inputs, labels in retain_loader:
            inputs, labels = inputs.cuda(non_blocking=True), labels.to("cuda", torch.int64)
            noise = torch.zeros(inputs.shape, device="cuda") + torch.zeros_like(inputs, device=torch.device("cuda", 0))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs + noise).double().to("cpu"), labels).backward()
            optimizer.step()
            seen.append((inputs.device.type, labels.dtype, noise.device.type))
        return net.to(dtype=torch.float32)

    model, meter = run(unlearning)
    assert set(seen) == {("cpu", torch.int64, "cpu")}
    assert meter.examples == pytest.approx(216)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    with pytest.raises((RuntimeError, AssertionError)):  # when it is over, nothing is diverted any more
        torch.zeros(1).cuda()


def test_a_fifth_parameter_is_a_namespace():
    seen = {}

    def unlearning(net, retain_loader, forget_loader, val_loader, args):
        seen.update(vars(args))

    run(unlearning, batch_size=10, args="alpha=0.5; mask=None;name=ours;lr=3;sizes=[1, 2]")
    assert seen == {
        "device": torch.device("cpu"), "num_classes": 3, "batch_size": 10, "epochs": 2, "seed": 0,
        "alpha": 0.5, "mask": None, "name": "ours", "lr": 3, "sizes": [1, 2],
    }  # fmt: skip
    run(unlearning, args="")
    assert (seen["lr"], seen["batch_size"]) == (0.1, 32)


def test_settings_can_be_typed():
    spec = "harness.adapters:NeurIPS2023:function=math:sqrt,args=lr=0.1;epochs=5,index=true,held_out=0.1"
    found = registry.resolve("unlearner", spec)
    assert (found.value.args, found.value.index, found.value.held_out) == ("lr=0.1;epochs=5", True, 0.1)
    assert registry.resolve("unlearner", found.id) == found


def test_what_is_returned_is_taken_and_nothing_means_in_place():
    def in_place(net, *_):
        with torch.no_grad():
            next(net.parameters()).zero_()

    def returned(net, *_):
        in_place(net)
        return net

    for function in (in_place, returned):
        model, _ = run(function)
        assert not next(model.parameters()).any()


def test_its_compute_is_measured():
    def greedy(net, retain_loader, *_):
        for _ in range(3):
            for inputs, _ in retain_loader:
                net(inputs).sum().backward()

    assert run(greedy)[1].examples == pytest.approx(3 * 216)


def test_it_keeps_the_contract():
    namespace: dict = {}
    exec(SUBMISSION, namespace)
    method = registry.register("unlearner", NeurIPS2023(namespace["unlearning"]))
    for line in LINES:
        examine(Clause(method, line, 2.0, 20))


def test_it_runs_from_python(tmp_path, monkeypatch):
    def unlearning(net, retain_loader, forget_loader, val_loader):
        optimizer = torch.optim.SGD(net.parameters(), 0.05)
        for inputs, labels in retain_loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()

    verdicts = audit(
        NeurIPS2023(unlearning, reads_forget=False), task="tiny:Tiny", poison="backdoor:size=1", seeds=3, store=tmp_path
    )
    assert [v.measure.name for v in verdicts] == ["attack_success", "accuracy", "cost"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("function=nowhere:unlearning", "cannot be imported"),
        ("function=math:nothing", "no attribute 'nothing'"),
        ("function=math:pi", "can be called"),
        ("function=unlearning", "not a dotted path"),
        ("function=math:sqrt,batch_size=0", "batch_size must be at least 1"),
        ("function=math:sqrt,held_out=1", "held_out must be at least 0 and below 1, not 1.0"),
        ("function=math:sqrt,args=lr", "args must be NAME=VALUE, separated by semicolons; 'lr' is not"),
    ],
)
def test_what_cannot_work_is_said_at_once(spec, message):
    with pytest.raises(UnlearningError, match=message):
        registry.resolve("unlearner", f"harness.adapters:NeurIPS2023:{spec}")


def test_a_task_with_several_inputs_is_refused():
    state, retain, forget = problem()
    several = Data({**retain.inputs, "mask": retain.inputs["image"]}, retain.labels)
    with pytest.raises(UnlearningError, match="inputs image, mask"):
        run(lambda net, *_: net, data=(state, several, forget))
