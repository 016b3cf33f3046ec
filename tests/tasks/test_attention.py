"""Networks of transformers whose texts are padded on the right alone: no mask is made, and nothing else changes."""

import copy

import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode

from harness.api import Batch
from harness.tasks._hub import UNMASKED, without_masks
from harness.tasks.causal_lm import CausalLM

SIZES = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = transformers.LlamaConfig(**SIZES)
GPT2 = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=2, n_head=2)


def made(config):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


class Asked(TorchFunctionMode):
    """Counts the questions about values."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.times += func is torch.Tensor.__bool__
        return func(*args, **(kwargs or {}))


def scores(network, tokens, **kwargs):
    with torch.no_grad():
        return network(input_ids=tokens, use_cache=False, **kwargs).logits


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_scores_are_the_same_and_no_value_is_asked_for(config):
    tokens = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    network = made(config)
    wanted = scores(network, tokens)
    with without_masks(network), Asked() as asked:
        found = scores(network, tokens)
    assert torch.equal(found, wanted)
    assert asked.times == 0
    other = tokens.clone()
    other[:, 6:] = 7  # no token looks at what stands behind it
    with without_masks(network):
        assert torch.equal(scores(network, other)[:, :6], found[:, :6])


def test_whoever_calls_the_network_with_a_mask_of_its_own_is_heard():
    """As trainers of open-unlearning do: they call the network itself."""
    network, tokens = made(LLAMA), torch.arange(12)[None]
    mask = torch.tensor([[0] * 4 + [1] * 8])
    wanted = scores(network, tokens, attention_mask=mask)
    with without_masks(network):
        scores(network, tokens)
    assert network.config._attn_implementation == "sdpa"
    assert torch.equal(scores(network, tokens, attention_mask=mask), wanted)
    assert not torch.allclose(wanted[:, 4:], scores(network, tokens)[:, 4:])


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4),
        transformers.Qwen2Config(**SIZES, num_key_value_heads=2, layer_types=["full_attention", "sliding_attention"]),
        transformers.LlamaConfig(**SIZES, attn_implementation="eager"),
    ],
    ids=["window", "layers", "eager"],
)
def test_windows_and_other_attention_stay(config):
    network = made(config)
    before = network.config._attn_implementation
    with without_masks(network):
        assert network.config._attn_implementation == before != UNMASKED


def test_the_old_attention_is_back_after_an_error():
    network = made(GPT2)

    def fails():
        with without_masks(network):
            assert network.config._attn_implementation == UNMASKED
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert network.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("fields", [{}, {"adapter": "none"}, {"adapter": "none", "scratch": True}])
def test_the_tasks_use_it(fields):
    task = CausalLM(**fields, length=16)
    inputs = {"tokens": torch.ones(2, 16, dtype=torch.int64), "length": torch.tensor([16, 16])}
    batch = Batch(inputs, torch.zeros(2, dtype=torch.int64), torch.arange(2), 16)
    model = task.new_model()
    with Asked() as asked:
        task.logits(model, batch)
    assert asked.times <= 1  # whether there is padding, on a CPU
