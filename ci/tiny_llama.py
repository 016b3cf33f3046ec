"""Train the tiny base model of the task causal-lm, and write it in the layout of the Hugging Face hub.

It is trained on the chapters of the World Factbook that the task itself does not use. Takes some minutes on one core:

    python ci/tiny_llama.py [--out harness/tasks/tiny_llama] [--epochs 3]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.tasks._factbook import BASE_CHAPTERS, documents

END = "<|endoftext|>"
HERE = Path(__file__).resolve().parent.parent
VOCABULARY, WIDTH, LAYERS, HEADS, LENGTH, BATCH, RATE = 2000, 64, 2, 4, 64, 32, 4e-3


def learned_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-pair encoding of bytes that is learned from texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def rows(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Return the first tokens of every text."""
    return [ids[:LENGTH] for ids in tokenizer(texts)["input_ids"]]


def train(model: LlamaForCausalLM, texts: list[list[int]], epochs: int) -> None:
    """Train on every next token, batches of like length together."""
    steps = epochs * -(-len(texts) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1, pct_start=0.1)
    order = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        drawn = torch.randperm(len(texts), generator=order).tolist()
        pools = [
            sorted(drawn[at : at + 32 * BATCH], key=lambda row: len(texts[row]))
            for at in range(0, len(drawn), 32 * BATCH)
        ]
        batches = [pool[at : at + BATCH] for pool in pools for at in range(0, len(pool), BATCH)]
        total = 0.0
        for batch in batches:
            longest = max(len(texts[row]) for row in batch)
            tokens = torch.tensor([texts[row] + [-100] * (longest - len(texts[row])) for row in batch])
            logits = model(input_ids=tokens.clamp_min(0), use_cache=False).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(batches):.3f}", flush=True)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "harness" / "tasks" / "tiny_llama")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kept, held_out = documents(BASE_CHAPTERS)
    texts = kept + held_out
    tokenizer = learned_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=160, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    train(model, rows(tokenizer, texts), options.epochs)
    options.out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "generation_config.json").unlink()
    # Older versions of transformers do not know the class that newer ones name.
    named = {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast"}
    (options.out / "tokenizer_config.json").write_text(json.dumps(named, indent=2) + "\n")


if __name__ == "__main__":
    main()
