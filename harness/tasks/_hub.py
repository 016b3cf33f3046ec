"""What language tasks load from the Hugging Face hub, or from a folder in its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from harness import UnlearningError


def missing(what: str) -> UnlearningError:
    """Return the error about a package that is not installed."""
    return UnlearningError(
        f"language tasks need {what}, which is not installed: pip install 'pytest-unlearning[language]'"
    )


def transformers() -> Any:
    """Return the package, or raise a sentence that names what to install."""
    try:
        import transformers as package
    except ImportError:
        raise missing("transformers") from None
    return package


def is_path(name: str) -> bool:
    """Return whether a name can only be that of a file or a folder: those on the hub are NAME or OWNER/NAME."""
    return name.count("/") > 1 or name.startswith((".", "/", "~"))


def quietly(load: Callable[[], Any], what: str, advice: str) -> Any:
    """Return what was loaded from the hub or a folder, without its progress bars.

    Args:
        load: Loads it.
        what: What that is, for the error.
        advice: What to do if it cannot be loaded.

    Raises:
        UnlearningError: It cannot be loaded.
    """
    logging = transformers().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    except Exception as error:  # no network, no such name, no such file: each raises something of its own
        lines = str(error).splitlines() or [""]
        whole = " ".join(line.strip() for line in lines[: 2 if lines[0].rstrip().endswith(":") else 1])
        said = f"{type(error).__name__}: {whole}"
        raise UnlearningError(f"{what} cannot be loaded ({said}); {advice}") from error
    finally:
        logging.set_verbosity(verbosity)


#: Name by which transformers knows PyTorch's attention without its search for masks.
UNMASKED = "sdpa-unmasked"


@contextmanager
def without_masks(network: Any) -> Iterator[None]:
    """Have a causal network of transformers attend to all that stands before, and look for no mask, while entered.

    For texts that are padded on the right alone, where no token looks, and that come without a mask. In each forward
    pass transformers asks the positions whether several texts stand in a row: a GPU is waited for. While a step is
    recorded it does not ask, and makes a mask, with which the fastest kernels cannot be used.

    Nothing is changed in networks that attend to a window, or by another attention than PyTorch's, nor by versions of
    transformers before 4.50.
    """
    config = network.config
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    layers = getattr(config, "layer_types", None) or ()
    plain = not any(windows) and all(layer == "full_attention" for layer in layers)
    if not (plain and getattr(config, "_attn_implementation", None) == "sdpa" and _unmasked_is_known()):
        yield
        return
    config._attn_implementation = UNMASKED  # which has no function that makes masks: none is made
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


@cache
def _unmasked_is_known() -> bool:
    """Make PyTorch's attention known to transformers by another name; return whether it can be told."""
    interface = getattr(transformers(), "AttentionInterface", None)
    if interface is None:
        return False
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    interface.register(UNMASKED, sdpa_attention_forward)
    return True
