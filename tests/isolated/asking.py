"""What tests of isolated methods share: a request on the tiny task."""

import torch
from labs import TINY

from harness import registry
from harness.isolated import method as isolation
from harness.isolated.process import Limits
from harness.training.data import Data
from harness.training.unlearning import unlearn, wanted_epochs


class Request:
    """What a method is asked, in this process or in one of its own."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        data = Data({"image": torch.rand(60, 1, 4, 4, generator=generator)}, torch.arange(60) % 3)
        self.retain, self.forget = data.subset(torch.arange(50)), data.subset(torch.arange(50, 60))
        torch.manual_seed(0)
        self.states = [TINY.value.new_model().state_dict() for _ in range(3)]
        self.given = {"budget": 2.0, "seed": 5}

    def history(self, method):
        return dict.fromkeys(wanted_epochs(method, TINY.value.epochs), self.states[1])

    def isolated(self, spec, limits=Limits()):  # noqa: B008 - it is frozen
        method = isolation.resolve(spec)
        parts = (self.states[0], self.retain, self.forget)
        return isolation.unlearn(method, TINY, *parts, history=self.history(method), limits=limits, **self.given)

    def ordinary(self, spec):
        method = registry.resolve("unlearner", spec)
        parts = (self.states[0], self.retain, self.forget)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return unlearn(method, TINY.value, *parts, history=self.history(method), **self.given)
        finally:
            torch.set_num_threads(threads)
