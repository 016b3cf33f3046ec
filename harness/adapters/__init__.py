"""Methods that were written for another harness, run unchanged."""

from harness.adapters.neurips2023 import NeurIPS2023
from harness.adapters.open_unlearning import OpenUnlearning

__all__ = ["NeurIPS2023", "OpenUnlearning"]
