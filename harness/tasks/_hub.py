"""What language tasks load from the Hugging Face hub, or from a folder in its layout."""

from __future__ import annotations

from collections.abc import Callable
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
        said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise UnlearningError(f"{what} cannot be loaded ({said}); {advice}") from error
    finally:
        logging.set_verbosity(verbosity)
