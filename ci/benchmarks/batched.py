"""Would it pay to train several seeds of a small model in one batched pass?

Forward and backward of digits-cnn's network on a batch of the recipe's size, for several models: one after another, and
all at once under ``torch.func`` (parameters and buffers stacked and mapped, a batch for each). Both make the same
gradients; the ratio is of CPU times, alternating, the best of several:

    python ci/benchmarks/batched.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from torch.func import functional_call, grad, stack_module_state, vmap

from harness import registry
from harness.report.document import versions

MODELS = (2, 4, 8)


def measured(count: int, repeats: int = 7) -> dict[str, float]:
    """Return the seconds of one step of so many models, one by one and batched, and how far their gradients differ."""
    task = registry.resolve("task", "digits-cnn").value
    train = task.load(None).train
    models = [task.new_model().train() for _ in range(count)]
    generator = torch.Generator().manual_seed(0)
    index = [torch.randperm(len(train), generator=generator)[: task.batch_size] for _ in models]
    batches = [train.batch(each) for each in index]
    images = torch.stack([batch.inputs["image"] for batch in batches])
    labels = torch.stack([batch.labels for batch in batches])
    parameters, buffers = stack_module_state(models)
    skeleton = models[0]

    def loss(own: dict, state: dict, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        scores = functional_call(skeleton, (own, state), (image,))
        return torch.nn.functional.cross_entropy(scores, label)

    batched = vmap(grad(loss))

    def one_by_one() -> None:
        for model, batch in zip(models, batches, strict=True):
            model.zero_grad(set_to_none=True)
            task.criterion(task.logits(model, batch), batch).backward()

    one_by_one()
    together = batched(parameters, {name: each.clone() for name, each in buffers.items()}, images, labels)
    alone = {name: torch.stack([dict(m.named_parameters())[name].grad for m in models]) for name in together}
    differ = max(float((together[name] - alone[name]).detach().abs().max()) for name in together)
    times: dict[str, list[float]] = {"one_by_one": [], "batched": []}
    for _ in range(repeats):
        for name, step in (
            ("one_by_one", one_by_one),
            ("batched", lambda: batched(parameters, buffers, images, labels)),
        ):
            started = time.process_time()
            for _ in range(3):
                step()
            times[name].append((time.process_time() - started) / 3)
    return {name: min(each) for name, each in times.items()} | {"largest_difference": differ}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for count in MODELS:
        found[count] = measured(count)
        ratio = found[count]["one_by_one"] / found[count]["batched"]
        found[count]["times_faster"] = ratio
        print(
            f"{count} models: {1e3 * found[count]['one_by_one']:.1f} ms one by one, "
            f"{1e3 * found[count]['batched']:.1f} ms batched, {ratio:.2f} times faster, gradients within "
            f"{found[count]['largest_difference']:.1e}"
        )
    if options.json:
        figures = {"models": found, "machine": f"{platform.machine()}, 1 thread, CPU", "versions": versions()}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
