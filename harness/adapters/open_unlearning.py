"""Trainers of open-unlearning, run unchanged."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from unittest.mock import patch

from harness.adapters._settings import parsed
from harness.api import Search, UnlearningError
from harness.calling import out_of_memory
from harness.importing import named, raised
from harness.judging.yardsticks import YARDSTICKS
from harness.specs import SpecError

if TYPE_CHECKING:
    from torch import nn

    from harness.request import ForgetRequest
    from harness.training.meter import Meter

#: Settings of transformers' ``TrainingArguments`` that the adapter makes itself, from its fields and the request.
OURS = (
    "output_dir", "seed", "data_seed", "use_cpu", "learning_rate", "per_device_train_batch_size", "max_steps",
    "num_train_epochs", "report_to",
)  # fmt: skip
#: What begins the names of those that need to know the number of steps.
PLANNED = ("lr_scheduler", "warmup")


@dataclass(frozen=True)
class OpenUnlearning:
    """Run a trainer that was written for open-unlearning, on a causal language model.

    Source: https://github.com/locuslab/open-unlearning at commit d3d7cf9, ``src/trainer`` and ``src/data`` (Dorna et
    al. 2025, arXiv 2506.12618). On the command line ``harness.adapters:OpenUnlearning:trainer=theirs:NPO``, in Python
    ``OpenUnlearning(NPO)``.

    A trainer is a subclass of transformers' ``Trainer``. Its ``compute_loss(model, inputs, return_outputs=False)`` is
    given batches ``{"forget": ..., "retain": ...}``, each with ``input_ids`` and ``labels``, int64, and
    ``attention_mask``, bool, of shape (batch, tokens), padded on the right. ``labels`` are -100 for tokens that are not
    learned. A pass is one over the forget set; beside each of its documents stands one of the retain set, drawn at
    random. The model is the one of transformers (or of peft around one), not the task's module around that.

    The trainer is made with ``model``, ``args``, ``train_dataset``, ``data_collator`` and settings of its own, by name.
    Nothing is evaluated, logged, reported or saved. Its ``args.output_dir`` is a folder that is gone afterwards. What
    it is to return is ``trainer.model``.

    Without ``epochs`` it trains until the budget does not pay for another step as dear as the dearest so far, and the
    rate falls linearly with what is left. What is spent is measured, a reference model and all else included: by
    examples or by operations, whichever is the larger share of what a budget allows by them (`harness.judging`). What
    an example takes in operations is that of one batch of the retain set, which is passed through the model before.
    A trainer with a ``create_scheduler`` of its own needs ``epochs``, because such a schedule is told how many steps
    there will be.

    Deviations from open-unlearning's own configuration: the rate is the recipe's; on a GPU weights are in single
    precision and products in bf16; AdamW is torch's; no tokenizer, ``evaluators``, ``template_args`` or evaluation data
    are handed over. There are no alternate answers, which DPO needs: a task has none.

    A subclass can add fields, with a `Search` or without. They are settings of the trainer.

    Attributes:
        trainer: The trainer's class, or its dotted path.
        lr: Learning rate of the first step, > 0; None for the recipe's.
        batch_size: Forget documents in a step, >= 1, and as many retained ones; None for the recipe's.
        epochs: Passes over the forget set, >= 1, whatever they cost; None for what the budget pays for.
        args: Settings of the trainer, such as ``beta=0.1;retain_loss_type=KL``.
        training: Further settings of transformers' ``TrainingArguments``, such as ``weight_decay=0.01``.
        reads_forget: Whether the trainer uses the forget set; part of the contract.
        repeatable: Whether it gives the same weights twice under the same seed; part of the contract.

    Raises:
        ValueError: The trainer cannot be imported, is none or needs ``epochs``, or another field is out of range.
        UnlearningError: A package is missing; the task is no causal language model; the trainer raised, does not take a
            setting, asks a batch for what it lacks, or leaves weights of other names; or the budget does not pay for a
            step.
    """

    trainer: str | type[Any]
    lr: Annotated[float | None, Search(0.005, 5, log=True, of="rate")] = None
    batch_size: Annotated[int | None, Search(choices=(None, 4, 8, 16))] = None
    epochs: int | None = None
    args: str = ""
    training: str = ""
    reads_forget: bool = True
    repeatable: bool = True

    modality: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        for package in ("transformers", "accelerate"):
            if importlib.util.find_spec(package) is None:
                raise UnlearningError(
                    f"trainers of open-unlearning need {package}, which is not installed: pip install "
                    "'pytest-unlearning[language]'"
                )
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise ValueError(f"lr must be positive, not {self.lr}")
        for name in ("batch_size", "epochs"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
        parsed(self.args)
        for name in parsed(self.training, "training"):
            if name in OURS:
                raise ValueError(f"training must not set {name}, which the adapter does")
            if name.startswith(PLANNED) and self.epochs is None:
                raise ValueError(f"{name} needs the number of steps to be known: set epochs, too")
        from transformers import Trainer

        if self.epochs is None and self.wraps.create_scheduler is not Trainer.create_scheduler:
            raise ValueError(
                f"the trainer {self.wraps.__name__!r} has a create_scheduler of its own, which needs the number of "
                "steps to be known: set epochs"
            )

    @property
    def wraps(self) -> type[Any]:
        """The trainer itself; its source is part of the method's."""
        from transformers import Trainer

        try:
            found = named(self.trainer, "trainer") if isinstance(self.trainer, str) else self.trainer
        except SpecError as error:
            raise ValueError(f"trainer: {error}") from None
        if not inspect.isclass(found) or not issubclass(found, Trainer):
            raise ValueError(f"trainer must name a subclass of transformers.Trainer, not {self.trainer!r}")
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """What the trainer is made with beside model, data and arguments, by name."""
        own = {each.name for each in fields(OpenUnlearning)}
        added = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in own}
        return {**added, **parsed(self.args)}

    def __call__(self, model: nn.Module, request: ForgetRequest) -> nn.Module:
        """Return the model that the trainer trained."""
        import torch

        from harness.training.isolation import isolated_rng
        from harness.training.meter import Meter

        network = _network(model, request)
        seed = int(torch.randint(2**31, (), generator=request.generator))
        with TemporaryDirectory() as folder, isolated_rng(seed), _nothing_left(network), Meter(network) as meter:
            operations = 0.0 if self.epochs is not None else _operations(model, request, seed)
            with _told(self.wraps):
                trainer = self._made(network, request, folder, seed)
                if self.epochs is None:
                    _keep_to_budget(trainer, meter, request.budget * len(request.retain), operations)
                trainer.train()
                _take_over(network, trainer)
        return model

    def _made(self, network: nn.Module, request: ForgetRequest, folder: str, seed: int) -> Any:
        """Return the trainer, ready to train."""
        from transformers import PrinterCallback, TrainingArguments

        from harness.adapters._documents import ForgetRetain, collated

        rate = request.optimizer(network).param_groups[0]["lr"] if self.lr is None else self.lr
        on_gpu = request.device.type == "cuda"
        # So it ends, even if nothing that it computes is measured.
        steps = {"max_steps": max(1, request.affordable())}
        given = {
            "output_dir": folder, "report_to": "none", "save_strategy": "no", "logging_strategy": "no",
            "eval_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False, "dataloader_pin_memory": False,
            "optim": "adamw_torch", "bf16": on_gpu, "use_cpu": not on_gpu, "seed": seed, "data_seed": seed,
            "learning_rate": rate, "per_device_train_batch_size": self.batch_size or request.batch_size,
            **(steps if self.epochs is None else {"num_train_epochs": self.epochs}),
            **parsed(self.training),
        }  # fmt: skip
        try:
            arguments = TrainingArguments(**given)
            if arguments.n_gpu > 1:
                arguments._n_gpu = 1  # the one that the request names
            trainer = self.wraps(
                model=network, args=arguments, train_dataset=ForgetRetain(request.forget, request.retain),
                data_collator=collated, **self.settings,
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise UnlearningError(
                f"the trainer {self.wraps.__name__!r} cannot be made with these settings: {raised(error)}"
            ) from error
        trainer.remove_callback(PrinterCallback)
        trainer.compute_loss = _called_as_written(trainer.compute_loss)
        return trainer


def _network(model: Any, request: ForgetRequest) -> nn.Module:
    """Return the causal language model of transformers that a task's model is, or has around itself.

    Raises:
        UnlearningError: There is none, or the task's points are no documents.
    """
    network: nn.Module = getattr(model, "network", model)
    inputs = request.retain.inputs
    takes = inspect.signature(network.forward).parameters
    if not {"tokens", "length", "start"} <= inputs.keys() or not {"attention_mask", "labels"} <= takes.keys():
        raise UnlearningError(
            "trainers of open-unlearning serve only causal language models of transformers, as --task=causal-lm has "
            f"them; this task has a {type(network).__name__} for the inputs {', '.join(inputs)}"
        )
    return network


def _operations(model: nn.Module, request: ForgetRequest, seed: int) -> float:
    """Return the operations of one example in a step of the recipe, measured on one batch of the retain set.

    This is the harness's own question: examples and operations of it are not charged.
    """
    import torch

    from harness.training.isolation import isolated_rng
    from harness.training.meter import count_back, counted

    size = min(request.batch_size, len(request.retain))
    batch = request.retain.batch(torch.arange(size) * (len(request.retain) // size))
    before = counted()
    with isolated_rng(seed):
        request.loss(model, batch).backward()
    flops: float = counted()[-1].flops - before[-1].flops
    count_back(before)
    model.zero_grad()
    return flops / size


def _take_over(network: nn.Module, trainer: Any) -> None:
    """Give a model the weights of the one that a trainer has in the end.

    Raises:
        UnlearningError: They have other names.
    """
    if trainer.model is network:
        return
    state, expected = trainer.model.state_dict(), network.state_dict().keys()
    if others := [*(state.keys() - expected), *(expected - state.keys())]:
        raise UnlearningError(
            f"the trainer {type(trainer).__name__!r} left another model, a {type(trainer.model).__name__}, whose "
            f"weights have other names, such as {min(others)!r}; trainer.model must be the model or a copy of it"
        )
    network.load_state_dict(state)


@contextmanager
def _told(trainer: type[Any]) -> Iterator[None]:
    """Say in a sentence what a trainer raised and in which of its lines; most of the way there is transformers'.

    Raises:
        UnlearningError: The block raised. What says nothing of the trainer passes: the harness's own errors, errors of
            files, and memory that ran out.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith("harness") or isinstance(error, OSError) or out_of_memory(error):
            raise
        modules = {each.__module__ for each in trainer.__mro__ if not each.__module__.startswith("transformers")}
        places = [
            f" ({frame.f_code.co_filename}:{line})"
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__") in modules
        ]
        said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        where = places[-1] if places else ""
        raise UnlearningError(f"the trainer {trainer.__name__!r} raised {said}{where}") from error


@contextmanager
def _nothing_left(network: nn.Module) -> Iterator[None]:
    """Put back what accelerate sets: variables of the environment, its own state, and attributes of the model."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    before, attributes = [dict(state) for state in states], set(vars(network))
    for state in states:
        state.clear()
    try:
        with patch.dict(os.environ):
            yield
    finally:
        for name in set(vars(network)) - attributes:  # such as a forward pass in half precision
            delattr(network, name)
        for state, held in zip(states, before, strict=True):
            state.clear()
            state.update(held)


def _called_as_written(compute_loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss that newer versions of transformers can call, too: open-unlearning's is for 4.45.

    Since 4.46 it is also given the number of tokens, by name; for batches of several parts that is None.
    """
    if "num_items_in_batch" in inspect.signature(compute_loss).parameters:
        return compute_loss

    @functools.wraps(compute_loss)
    def called(*args: Any, num_items_in_batch: Any = None, **named: Any) -> Any:
        return compute_loss(*args, **named)

    return called


def _keep_to_budget(trainer: Any, meter: Meter, allowed: float, operations: float) -> None:
    """Have a trainer end before the step for which the budget does not pay, and its rate fall linearly until then.

    Args:
        trainer: The trainer.
        meter: What has been measuring since before it was made.
        allowed: What it may spend, in examples forward and backward.
        operations: Those of one example in a step of the recipe; 0 if they are not counted.
    """
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import TrainerCallback

    def spent() -> float:
        """Return what was spent, in examples; operations as far as they go beyond what a budget allows of them."""
        most = YARDSTICKS["flops"].allows
        return max(meter.examples, meter.flops / (most * operations) if most and operations else 0.0)

    class Spending(TrainerCallback):
        before = dearest = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            now = spent()
            self.dearest = max(self.dearest, now - self.before)
            self.before = now
            if state.global_step == 1 and now > allowed * (1 + 1e-6):
                raise UnlearningError(
                    f"the first step of the trainer {type(trainer).__name__!r} costs {now:.0f} examples, and "
                    f"the budget is {allowed:.0f}; set a smaller batch_size, raise --audit-budget, or set epochs"
                )
            if now + self.dearest > allowed * (1 + 1e-6):
                control.should_training_stop = True

    def create_scheduler(num_training_steps: int, optimizer: Any = None) -> Any:
        trainer.lr_scheduler = LambdaLR(optimizer or trainer.optimizer, lambda _: max(0.0, 1 - spent() / allowed))
        return trainer.lr_scheduler

    trainer.add_callback(Spending())
    trainer.create_scheduler = create_scheduler
