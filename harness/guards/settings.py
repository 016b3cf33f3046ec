"""The settings of a process under which models are trained: each with how it is read and put back.

Torch and numpy are looked at only where something has imported them; what a version lacks is left out.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

#: What stands for a value that cannot be had.
NOTHING = object()
#: A number that is zero where denormals are flushed.
TINY = 5e-324
#: Switches that are attributes of a module, by the module's name below torch.
SWITCHES = {
    "backends": ("fp32_precision",),
    "backends.mkldnn": ("enabled", "deterministic", "allow_tf32", "fp32_precision"),
    "backends.mkldnn.matmul": ("fp32_precision",),
    "backends.mkldnn.conv": ("fp32_precision",),
    "backends.cudnn": ("enabled", "benchmark", "benchmark_limit", "deterministic", "allow_tf32", "fp32_precision"),
    "backends.cudnn.conv": ("fp32_precision",),
    "backends.cuda.matmul": (
        "allow_tf32", "fp32_precision", "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction", "allow_fp16_accumulation",
    ),
    "utils.deterministic": ("fill_uninitialized_memory",),
}  # fmt: skip
#: Contexts of inference mode that were entered to put it back; torch leaves one when it is collected.
_ENTERED: list[Any] = []


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: What an error calls it.
        read: Returns its value, which can be compared.
        restore: Takes such a value and sets it.
        imports: Whether libraries change it when they are imported. It is then put back without a word if something
            was imported meanwhile.
        line: The line of the contract of which it is a part.
    """

    name: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    imports: bool = False
    line: str = "settings"


def settings() -> tuple[Setting, ...]:
    """Return the settings of what is imported by now."""
    return _settings("torch.optim" in sys.modules, "numpy" in sys.modules, "decimal" in sys.modules)


@functools.cache
def _settings(with_torch: bool, with_numpy: bool, with_decimal: bool) -> tuple[Setting, ...]:
    found = [*_of_python()]
    if with_decimal:
        found.append(Setting("decimal's context", _decimal, _set_decimal))
    if with_numpy:
        import numpy

        found += [
            Setting("numpy's seterr", numpy.geterr, lambda old: numpy.seterr(**old)),
            Setting("numpy's print options", numpy.get_printoptions, lambda old: numpy.set_printoptions(**old)),
        ]
    if with_torch:
        found += [*_of_torch(), *_switches()]
    return tuple(each for each in found if _read(each) is not NOTHING)


def values(of: tuple[Setting, ...]) -> list[Any]:
    """Return the value of each setting."""
    return [_read(each) for each in of]


def put_back(of: tuple[Setting, ...], before: list[Any], imported: bool) -> list[Setting]:
    """Put back what differs from before, and return it.

    Args:
        of: The settings.
        before: Their values then.
        imported: Whether something was imported meanwhile.
    """
    changed = []
    for setting, old in zip(of, before, strict=True):
        if _read(setting) != old and old is not NOTHING:
            with contextlib.suppress(Exception):  # a folder that is gone: the others are put back all the same
                setting.restore(old)
            if not (imported and setting.imports):
                changed.append(setting)
    return changed


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except Exception:  # a version that lacks it, or a mixture of old and new switches that torch refuses to read
        return NOTHING


def _of_python() -> Iterator[Setting]:
    yield Setting("Python's recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, imports=True)
    yield Setting("the garbage collector", lambda: (gc.isenabled(), gc.get_threshold()), _set_collector)
    yield Setting("the working directory", _directory, _set_directory)
    yield Setting("the environment's variables", _environment, _set_environment, imports=True)
    yield Setting("sys.path", lambda: list(sys.path), _set_path, imports=True)
    yield Setting("the handlers of signals", _handlers, _set_handlers, imports=True)
    yield Setting("the filters of warnings", lambda: list(warnings.filters), _set_filters, imports=True)
    yield Setting("sys.stdout and sys.stderr", lambda: (sys.stdout, sys.stderr), _set_streams)
    yield Setting("Python's trace function", lambda: (sys.gettrace(), sys.getprofile()), _set_trace)
    yield Setting("the flushing of denormals", lambda: TINY * len("1") != 0, _set_denormals)


def _set_collector(old: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if old[0] else gc.disable)()
    gc.set_threshold(*old[1])


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _set_directory(old: str | None) -> None:
    if old is not None:
        os.chdir(old)


def _environment() -> dict[Any, Any]:
    held: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]
    return held.copy()  # os.environ.copy() decodes every one of them


def _set_environment(old: dict[Any, Any]) -> None:
    before = {os.fsdecode(name): os.fsdecode(value) for name, value in old.items()}
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _set_path(old: list[str]) -> None:
    sys.path[:] = old


#: What ``signal`` wraps into enumerations, which takes long.
_signal: Any = sys.modules["_signal"]
_SIGNALS = tuple(map(int, signal.valid_signals()))


def _handlers() -> list[Any]:
    return list(map(_signal.getsignal, _SIGNALS))


def _set_handlers(old: list[Any]) -> None:
    if threading.current_thread() is threading.main_thread():  # nobody else may
        for number, handler in zip(_SIGNALS, old, strict=True):
            if handler is not None and _signal.getsignal(number) != handler:
                _signal.signal(number, handler)


def _set_filters(old: list[Any]) -> None:
    warnings.filters[:] = old  # type: ignore[index]
    for name in ("_filters_mutated", "_filters_mutated_lock_held"):
        if hasattr(warnings, name):  # what was warned of before is decided anew
            getattr(warnings, name)()
            return


def _set_streams(old: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = old


def _set_trace(old: tuple[Any, Any]) -> None:
    sys.settrace(old[0])
    sys.setprofile(old[1])


def _set_denormals(kept: bool) -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(not kept)


_DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def _decimal() -> tuple[Any, ...]:
    import decimal

    context = decimal.getcontext()
    return (*(getattr(context, name) for name in _DECIMAL), tuple(context.traps.items()))


def _set_decimal(old: tuple[Any, ...]) -> None:
    import decimal

    context = decimal.getcontext()
    for name, value in zip(_DECIMAL, old, strict=False):
        setattr(context, name, value)
    context.traps.update(dict(old[-1]))


def _of_torch() -> Iterator[Setting]:
    import torch
    from torch import autograd, backends, overrides
    from torch.nn.modules import module as of_modules
    from torch.optim import optimizer as of_optimizers
    from torch.utils import _python_dispatch

    c: Any = torch._C
    yield Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype)
    place = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    yield Setting(
        "torch's default device", lambda: str(getattr(getattr(place, "device_context", None), "device", "")),
        lambda old: torch.set_default_device(old or None),
    )  # fmt: skip
    yield Setting(
        "torch's deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda old: torch.use_deterministic_algorithms(old[0], warn_only=old[1]),
    )
    yield Setting("torch's matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    yield Setting("torch's threads", torch.get_num_threads, torch.set_num_threads)
    yield Setting("torch's grad mode", torch.is_grad_enabled, torch._C._set_grad_enabled)
    yield Setting("torch's inference mode", torch.is_inference_mode_enabled, _set_inference)
    yield Setting(
        "torch's anomaly mode", lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda old: autograd.set_detect_anomaly(*old),
    )  # fmt: skip
    yield Setting("torch.autocast", _autocast, _set_autocast)
    yield Setting("torch's warnings", torch.is_warn_always_enabled, torch.set_warn_always)
    yield Setting(
        "torch's attention backends",
        lambda: [getattr(backends.cuda, f"{name}_sdp_enabled")() for name in _attention()],
        lambda old: [getattr(backends.cuda, f"enable_{n}_sdp")(v) for n, v in zip(_attention(), old, strict=True)],
    )
    top: Any = getattr(c._autograd, "_top_saved_tensors_default_hooks", lambda _: None)
    yield Setting("torch's hooks on saved tensors", lambda: top(True), lambda old: _pop_saved(top, old))
    yield Setting(
        "torch's function modes", c._len_torch_function_stack,
        lambda old: [overrides._pop_mode() for _ in range(c._len_torch_function_stack() - old)],
    )  # fmt: skip
    yield Setting(
        "torch's dispatch modes", c._len_torch_dispatch_stack,
        lambda old: [_python_dispatch._pop_mode() for _ in range(c._len_torch_dispatch_stack() - old)],
    )  # fmt: skip
    yield Setting("torch's current GPU", _gpu, _set_gpu)
    places: list[dict[int, Any]] = [
        getattr(where, name)
        for where in (of_modules, of_optimizers)
        for name in vars(where)
        if name.startswith("_global_") and name.endswith("_hooks")
    ]
    yield Setting("hooks", lambda: list(map(dict, places)), lambda old: _set_hooks(places, old), line="no-hooks")


def _switches() -> Iterator[Setting]:
    """Yield the switches of torch's backends that this version has."""
    import torch

    for path, names in SWITCHES.items():
        module: Any = torch
        for part in path.split("."):
            module = getattr(module, part, None)
        for name in names:
            if name == "allow_tf32" and hasattr(module, "fp32_precision"):
                continue  # the old name of the same, which torch warns of
            yield Setting(
                f"torch.{path}.{name}", functools.partial(getattr, module, name),
                functools.partial(setattr, module, name),
            )  # fmt: skip


def _set_inference(old: bool) -> None:
    import torch

    context = torch.inference_mode(old)
    context.__enter__()
    _ENTERED.append(context)


def _autocast() -> list[Any]:
    import torch

    of = [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")]
    return [*of, torch.is_autocast_cache_enabled()]


def _set_autocast(old: list[Any]) -> None:
    import torch

    for kind, (enabled, dtype) in zip(("cpu", "cuda"), old, strict=False):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)
    torch.set_autocast_cache_enabled(old[-1])


@functools.cache
def _attention() -> list[str]:
    from torch.backends import cuda

    known = ("flash", "mem_efficient", "math", "cudnn")
    return [name for name in known if hasattr(cuda, f"{name}_sdp_enabled") and hasattr(cuda, f"enable_{name}_sdp")]


def _pop_saved(top: Callable[[bool], Any], old: Any) -> None:
    from torch import _C

    pop: Any = _C._autograd._pop_saved_tensors_default_hooks
    while top(True) is not None and top(True) != old:
        pop()


def _gpu() -> int | None:
    import torch

    return torch.cuda.current_device() if torch.cuda.is_initialized() else None


def _set_gpu(old: int | None) -> None:
    import torch

    if old is not None:
        torch.cuda.set_device(old)


def _set_hooks(places: list[dict[int, Any]], old: list[dict[int, Any]]) -> None:
    for place, before in zip(places, old, strict=True):
        place.clear()
        place.update(before)
