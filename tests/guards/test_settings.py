"""A setting that a method leaves changed: it is refused, put back, and reaches no other model."""

import decimal
import gc
import os
import signal
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness import registry
from harness.api import ContractError
from harness.contract.requests import EDGES, LittleRecipe
from harness.contract.watching import LITTLE
from harness.guards.settings import settings, values
from harness.training.data import Data, digest
from harness.training.unlearning import unlearn

GD = registry.resolve("unlearner", "gd")
ENTERED = []  # contexts that must not be collected


class Passes(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def enter(context):
    ENTERED.append(context)
    context.__enter__()


def flip(module, name, value=None):
    return lambda: setattr(module, name, not getattr(module, name) if value is None else value)


def handles_signals():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


CHANGES = {
    "Python's recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "the garbage collector": gc.disable,
    "the working directory": lambda: os.chdir("/"),
    "the environment's variables": lambda: os.environ.__setitem__("CARELESS", "1"),
    "sys.path": lambda: sys.path.insert(0, "/careless"),
    "the handlers of signals": handles_signals,
    "the filters of warnings": lambda: warnings.simplefilter("ignore"),
    "sys.stdout and sys.stderr": lambda: setattr(sys, "stdout", sys.__stderr__),
    "Python's trace function": lambda: sys.setprofile(lambda *_: None),
    "the flushing of denormals": lambda: torch.set_flush_denormal(True),
    "decimal's context": lambda: setattr(decimal.getcontext(), "prec", 5),
    "numpy's seterr": lambda: np.seterr(all="ignore"),
    "numpy's print options": lambda: np.set_printoptions(precision=1),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "torch's deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch's matmul precision": lambda: torch.set_float32_matmul_precision("high"),
    "torch's threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "torch's grad mode": lambda: torch.set_grad_enabled(False),
    "torch's inference mode": lambda: enter(torch.inference_mode()),
    "torch's anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "torch.autocast": lambda: enter(torch.autocast("cpu")),
    "torch's warnings": lambda: torch.set_warn_always(True),
    "torch's attention backends": lambda: torch.backends.cuda.enable_math_sdp(False),
    "torch's hooks on saved tensors": lambda: enter(torch.autograd.graph.saved_tensors_hooks(abs, abs)),
    "torch's function modes": lambda: enter(BaseTorchFunctionMode()),
    "torch's dispatch modes": lambda: enter(Passes()),
    "hooks": lambda: register_module_forward_hook(lambda *_: None),
    "torch.backends.mkldnn.enabled": flip(torch.backends.mkldnn, "enabled"),
    "torch.backends.mkldnn.deterministic": flip(torch.backends.mkldnn, "deterministic"),
    "torch.backends.mkldnn.allow_tf32": flip(torch.backends.mkldnn, "allow_tf32"),
    "torch.backends.cudnn.enabled": flip(torch.backends.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": flip(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.benchmark_limit": flip(torch.backends.cudnn, "benchmark_limit", 3),
    "torch.backends.cudnn.deterministic": flip(torch.backends.cudnn, "deterministic"),
    "torch.backends.cudnn.allow_tf32": flip(torch.backends.cudnn, "allow_tf32"),
    "torch.backends.cuda.matmul.allow_tf32": flip(torch.backends.cuda.matmul, "allow_tf32"),
    "torch.utils.deterministic.fill_uninitialized_memory": flip(
        torch.utils.deterministic, "fill_uninitialized_memory"
    ),
} | {
    f"torch.backends.cuda.matmul.{name}": flip(torch.backends.cuda.matmul, name)
    for name in (
        "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction", "allow_fp16_accumulation",
    )
}  # fmt: skip
#: Not on every machine: a second GPU.
UNTRIED = {"torch's current GPU"}


def change_of(name):
    if name in CHANGES:
        return CHANGES[name]
    path = name.removeprefix("torch.").removesuffix(".fp32_precision")  # one for each backend
    module = torch
    for part in path.split("."):
        module = getattr(module, part)
    return flip(module, "fp32_precision", "ieee")


NAMES = [each.name for each in settings() if each.name not in UNTRIED]


def unlearned(method):
    """Have a method serve an ordinary request."""
    case = EDGES["ordinary-request"]
    problem = LITTLE.problem(case)
    retain, forget = (Data(d.inputs, d.labels).subset(torch.arange(len(d))) for d in (problem.retain, problem.forget))
    recipe = LittleRecipe(case.batch_size, 4)
    return unlearn(method, recipe, problem.checkpoints[-1], retain, forget, budget=2.0, seed=0)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_is_left_changed_is_refused_and_put_back(name):
    def careless(model, request):
        change_of(name)()
        return model

    alone = digest(unlearned(GD).state_dict())
    table = settings()
    before = values(table)
    with pytest.raises(ContractError, match="left ") as raised:
        unlearned(registry.register("unlearner", careless))
    assert name in str(raised.value)
    assert raised.value.line == ("no-hooks" if name == "hooks" else "settings")
    assert values(table) == before
    assert digest(unlearned(GD).state_dict()) == alone


def test_what_raises_leaves_nothing_behind_either():
    def crashes(model, request):
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        raise ValueError("it is mine")

    with pytest.raises(ValueError, match="it is mine"):
        unlearned(registry.register("unlearner", crashes))
    assert torch.get_default_dtype() is torch.float32
    assert torch.zeros(1).device.type == "cpu"


def test_a_default_device_that_is_the_usual_one_is_a_setting_too():
    def on_cpu(model, request):
        torch.set_default_device("cpu")
        torch.autograd.set_detect_anomaly(True)
        return model

    with pytest.raises(ContractError, match="torch's default device and torch's anomaly mode"):
        unlearned(registry.register("unlearner", on_cpu))
    assert not torch.is_anomaly_enabled()


def test_what_a_library_sets_when_it_is_imported_is_no_breach(tmp_path, monkeypatch):
    (tmp_path / "library_that_sets.py").write_text(
        "import os, sys, warnings\nwarnings.simplefilter('ignore')\n"
        "os.environ['LIBRARY'] = '1'\nsys.path.append('/x')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def imports(model, request):
        import library_that_sets  # noqa: F401

        return model

    filters, path = list(warnings.filters), list(sys.path)
    unlearned(registry.register("unlearner", imports))
    assert (list(warnings.filters), list(sys.path)) == (filters, path)
    assert "LIBRARY" not in os.environ
