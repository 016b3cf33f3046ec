"""The fields that all methods share that train, and how fields are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from harness import Search

if TYPE_CHECKING:
    import torch

#: Rates that suit Adam are about a hundredth of those that suit SGD with momentum.
ADAPTIVE = 0.01


@dataclass(frozen=True)
class Trained:
    """A method that trains, at a rate that falls.

    Attributes:
        lr: Initial learning rate, > 0; None for ``lr_of_recipe`` times `lr_unit`. A fixed default would not do: one
            that suits SGD on digits would wreck a language model under AdamW.
        batch_size: Examples per step, >= 1; None for the recipe's. Smaller batches make more steps of the same
            examples: a tenth of a training on digits is 20 steps of 128, a tenth of the paper's about 3,900.
        optimizer: ``recipe`` for the task's own; ``adam`` for Adam with moments 0.9 and 0.999; ``sgd`` for SGD with
            momentum 0.9. The latter two are without weight decay.
        epochs: Passes over the retain set, >= 1; None for as many as the budget pays for.

    Raises:
        ValueError: A field is out of range.
    """

    lr: Annotated[float | None, Search(0.005, 5, log=True, of="rate")] = None
    batch_size: Annotated[int | None, Search(choices=(None, 8, 16, 32, 64))] = None
    optimizer: Annotated[Literal["recipe", "adam", "sgd"], Search(choices=("recipe", "adam", "sgd"))] = "recipe"
    epochs: int | None = None

    lr_of_recipe: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        check(self.lr is None or 0 < self.lr < float("inf"), f"lr must be positive, not {self.lr}")
        check(self.batch_size is None or self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        kinds = ("recipe", "adam", "sgd")
        check(self.optimizer in kinds, f"optimizer must be recipe, adam or sgd, not {self.optimizer!r}")
        check(self.epochs is None or self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")

    def lr_scale(self, recipe: torch.optim.Optimizer) -> float:
        """Return what a rate is multiplied by where the optimiser is of another kind than the recipe's."""
        adaptive = "betas" in recipe.defaults
        if self.optimizer == "recipe" or adaptive == (self.optimizer == "adam"):
            return 1.0
        return 1 / ADAPTIVE if adaptive else ADAPTIVE

    def lr_unit(self, recipe: torch.optim.Optimizer) -> float:
        """Return the rate that a search for ``lr`` counts in: that of the task's optimiser, times `lr_scale`."""
        rate: float = recipe.param_groups[0]["lr"]
        return rate * self.lr_scale(recipe)


def check(condition: bool, message: str) -> None:
    """Refuse fields that are out of range. Write conditions so that not-a-number fails them.

    Raises:
        ValueError: The condition does not hold.
    """
    if not condition:
        raise ValueError(message)
