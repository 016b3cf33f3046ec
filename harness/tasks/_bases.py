"""Base models and tokenizers of causal-lm, each loaded once in a process."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import UnlearningError
from harness.tasks._hub import is_path, missing, quietly, transformers

if TYPE_CHECKING:
    from torch import nn

TINY = "tiny"
#: A Llama of 0.2 million weights, which ci/tiny_llama.py trained on chapters of the World Factbook.
FOLDER = Path(__file__).resolve().parent / "tiny_llama"


def place(model: str) -> str:
    """Return the folder or the name on the hub that a model is loaded from."""
    return str(FOLDER) if model == TINY else model


@cache
def tokenizer(model: str) -> Any:
    """Return the tokenizer of a model.

    Raises:
        UnlearningError: It cannot be loaded.
    """
    load = transformers().AutoTokenizer.from_pretrained
    return _quietly(model, lambda: load(place(model)), "the tokenizer of ")


@cache
def beginning(model: str) -> list[int]:
    """Return the tokens that a model's tokenizer puts before every text; not to be changed."""
    whole, bare = (list(tokenizer(model)("a", add_special_tokens=special)["input_ids"]) for special in (True, False))
    return next((whole[:at] for at in range(len(whole)) if whole[at : at + len(bare)] == bare), [])


@cache
def _config(model: str) -> Any:
    return _quietly(model, lambda: transformers().AutoConfig.from_pretrained(place(model)))


@cache
def _weights(model: str) -> Any:
    """Return a base model with its published weights, in single precision on the CPU; not to be changed."""
    auto = transformers().AutoModelForCausalLM
    return _quietly(model, lambda: auto.from_pretrained(place(model), use_safetensors=True)).float()


def new_base(model: str, scratch: bool) -> nn.Module:
    """Return a model with its published weights, or one of its configuration with random weights."""
    import torch

    if not scratch:
        return copy.deepcopy(_weights(model))  # type: ignore[no-any-return]
    with torch.device("cpu"):
        return transformers().AutoModelForCausalLM.from_config(_config(model)).float()  # type: ignore[no-any-return]


def digest(model: str, scratch: bool) -> str:
    """Return the SHA-256 of what a base model is, hexadecimal: of its weights, or of its configuration."""
    from harness.training.data import digest as digest_of

    if not scratch:
        return digest_of(_weights(model).state_dict())
    plain = {name: value for name, value in _config(model).to_dict().items() if not name.startswith("_")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def checkpointed(base: Any) -> None:
    """Have a base model compute its activations again in the backward pass."""
    newer = getattr(base, "activation_checkpointing_enable", None)
    (newer or base.gradient_checkpointing_enable)({"use_reentrant": False})


def with_adapters(base: nn.Module, rank: int) -> nn.Module:
    """Return a base model, frozen, with new low-rank adapters on every linear layer but the head."""
    try:
        import peft
    except ImportError:
        raise missing("peft") from None
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():  # of a name that is to change, and of layers whose weights are transposed
        warnings.simplefilter("ignore")
        return peft.get_peft_model(base, config)  # type: ignore[no-any-return]


def _quietly(model: str, load: Callable[[], Any], part: str = "") -> Any:
    advice = "give a folder with a causal model and its tokenizer, its name on the hub and a network, or model=tiny"
    path = Path(place(model))
    if path.is_dir() and not (path / "config.json").exists():
        raise UnlearningError(f"model={model} is a folder without a model: it has no config.json; {advice}")
    if path.is_file() or (is_path(model) and not path.exists()):  # the hub would be asked for half a minute
        raise UnlearningError(f"model={model} is {'a file' if path.is_file() else 'not there'}; {advice}")
    return quietly(load, f"{part}model={model}", advice)
