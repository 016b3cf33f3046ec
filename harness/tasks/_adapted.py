"""The network of causal-lm: a causal model of transformers, whole or with low-rank adapters on frozen weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from harness.tasks._hub import without_masks


class Adapted(nn.Module):
    """A causal language model whose state dict holds what is trained, and nothing else.

    Frozen weights are the same in every model of a task, so they are no part of its state: P, R and U are stored, and
    compared, by what was trained.

    Args:
        network: A causal model of ``transformers``, or of ``peft`` around one.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        kept = {name for name, weight in self.named_parameters() if weight.requires_grad}
        self._left_out = {name for name, _ in self.named_parameters(remove_duplicate=False)} - kept

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of the next token, shape (batch, tokens, vocabulary).

        No mask is needed: padding stands to the right, where no token looks.

        Args:
            tokens: int64, shape (batch, tokens).
        """
        with without_masks(self.network):
            scores: Tensor = self.network(input_ids=tokens, use_cache=False).logits
        return scores

    def state_dict(  # type: ignore[override] # of two forms, this is both
        self, *args: Any, prefix: str = "", **options: Any
    ) -> dict[str, Any]:
        """Return the trained weights by name; of weights that are tied, the first."""
        found: dict[str, Any] = super().state_dict(*args, prefix=prefix, **options)
        for name in self._left_out:
            found.pop(prefix + name, None)
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` returned.

        Raises:
            RuntimeError: ``strict``, and the names are others; or a shape is another.
        """
        expected = self.state_dict().keys()
        if strict and expected != state_dict.keys():
            other = sorted(expected ^ state_dict.keys())
            raise RuntimeError(f"the state dict differs from that of the model in {', '.join(map(repr, other[:3]))}")
        return super().load_state_dict({n: t for n, t in state_dict.items() if n in expected}, False, assign)

    def blocks(self) -> list[nn.Module]:
        """Return the layers, with what stands before the first and behind the last; together they hold every weight.

        Where no weight of the embeddings or of the head is trained, these belong to the first and the last layer.
        """
        lists = [
            (of, each) for of in self.network.modules() for each in of.children() if isinstance(each, nn.ModuleList)
        ]
        # Experts are in a list, too, inside of a layer.
        trunk, layers = max(lists, key=lambda found: sum(weight.numel() for weight in found[1].parameters()))
        parts = list(trunk.children())
        place = next(at for at, part in enumerate(parts) if part is layers)
        first, last = parts[:place], parts[place + 1 :]
        held = {id(weight) for part in (*first, layers, *last) for weight in part.parameters()}
        last += [part for part in self.network.modules() if {id(w) for w in part.parameters(recurse=False)} - held]
        if any(weight.requires_grad for part in (*first, *last) for weight in part.parameters()):
            return [nn.ModuleList(first), *layers, nn.ModuleList(last)]
        if len(layers) == 1:
            return [nn.ModuleList([*first, layers[0], *last])]
        return [nn.ModuleList([*first, layers[0]]), *layers[1:-1], nn.ModuleList([layers[-1], *last])]
