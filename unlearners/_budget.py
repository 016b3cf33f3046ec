"""What the methods may spend: how many examples of the retain set the budget pays for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import UnlearningError

if TYPE_CHECKING:
    from harness import Batches, ForgetRequest
    from unlearners._trained import Trained


def retained(request: ForgetRequest, method: Trained, price: float = 1.0) -> Batches:
    """Return batches of the retain set: ``epochs`` passes, or as many examples as the budget pays for at this price."""
    if method.epochs is not None:
        return request.batches("retain", method.epochs, method.batch_size)
    return request.batches("retain", batch_size=method.batch_size, examples=affordable(request, price))


def affordable(request: ForgetRequest, price: float = 1.0, reserve: float = 0.0) -> int:
    """Return `ForgetRequest.affordable`, at least one example.

    Raises:
        UnlearningError: The budget does not pay for one example.
    """
    return enough(request, request.affordable(price, reserve))


def enough(request: ForgetRequest, examples: int) -> int:
    """Return the number of examples that a method is going to train on.

    Raises:
        UnlearningError: The number is 0.
    """
    if examples == 0:
        raise UnlearningError(
            f"a budget of {request.budget:g} passes over the retain set pays for no step of this method; raise "
            "--audit-budget, or set the method's epochs"
        )
    return examples
