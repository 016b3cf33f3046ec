"""Networks of transformers whose texts are padded on the right alone: no mask is made, and nothing else changes."""

import copy

import pytest
import torch
import transformers
from torch.overrides import TorchFunctionMode

from harness.tasks import _bases
from harness.tasks._hub import UNMASKED, without_masks

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


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_scores_are_the_same_and_no_value_is_asked_for(config):
    tokens = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    before, after = made(config), without_masks(made(config))
    with torch.no_grad():
        wanted = before(input_ids=tokens, use_cache=False).logits
        with Asked() as asked:
            found = after(input_ids=tokens, use_cache=False).logits
    assert torch.equal(found, wanted)
    assert asked.times == 0
    other = tokens.clone()
    other[:, 6:] = 7  # no token looks at what stands behind it
    with torch.no_grad():
        assert torch.equal(after(input_ids=other, use_cache=False).logits[:, :6], found[:, :6])


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4),
        transformers.Qwen2Config(**SIZES, num_key_value_heads=2, layer_types=["full_attention", "sliding_attention"]),
        transformers.LlamaConfig(**SIZES, attn_implementation="eager"),
    ],
    ids=["window", "layers", "eager"],
)  # fmt: skip
def test_windows_and_other_attention_stay(config):
    network = made(config)
    before = network.config._attn_implementation
    assert without_masks(network) is network
    assert network.config._attn_implementation == before != UNMASKED


def test_the_tasks_use_it_and_share_no_configuration():
    scratch, published = _bases.new_base(_bases.TINY, scratch=True), _bases.new_base(_bases.TINY, scratch=False)
    assert scratch.config._attn_implementation == published.config._attn_implementation == UNMASKED
    assert _bases._config(_bases.TINY)._attn_implementation != UNMASKED
    assert _bases.digest(_bases.TINY, scratch=True) != _bases.digest(_bases.TINY, scratch=False)
