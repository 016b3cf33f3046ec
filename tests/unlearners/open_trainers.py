"""Trainers in the form of open-unlearning's: they know nothing of this project."""

import copy
import os

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import Trainer


class Base(Trainer):
    """Made without a tokenizer, evaluators or a template; open-unlearning's own base class takes the same."""

    def __init__(self, evaluators=None, template_args=None, *args, **kwargs):
        self.evaluators, self.template_args = evaluators, template_args
        super().__init__(*args, **kwargs)


class GradAscent(Base):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs["forget"])
        loss = -outputs.loss
        return (loss, outputs) if return_outputs else loss


class GradDiff(Base):
    def __init__(self, gamma=1.0, alpha=1.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gamma, self.alpha = gamma, alpha

    def forget_loss(self, model, inputs):
        return -model(**inputs).loss

    def compute_loss(self, model, inputs, return_outputs=False):
        forget = {name: inputs["forget"][name] for name in ("input_ids", "attention_mask", "labels")}
        outputs = model(**inputs["retain"])
        loss = self.gamma * self.forget_loss(model, forget) + self.alpha * outputs.loss
        return (loss, outputs) if return_outputs else loss


class NPO(GradDiff):
    """Negative preference optimisation: makes its loss of scores, and holds them against a reference model's."""

    def __init__(self, beta=1.0, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.beta = beta
        self.ref_model = self._prepare_ref_model(self.model)

    def _prepare_ref_model(self, model):
        reference = copy.deepcopy(model).to(self.accelerator.device)
        reference.eval()
        return self.accelerator.prepare_model(reference, evaluation_mode=True)

    def forget_loss(self, model, inputs):
        with torch.no_grad():
            before = self.surprise(self.ref_model, inputs)
        return -2 / self.beta * logsigmoid(self.beta * (self.surprise(model, inputs) - before)).mean()

    @staticmethod
    def surprise(model, inputs):
        scores, labels = model(**inputs).logits[:, :-1], inputs["labels"][:, 1:]
        return cross_entropy(scores.transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(dim=1)


class Noisy(GradDiff):
    """Writes, saves, logs and sets variables all the time."""

    def compute_loss(self, model, inputs, return_outputs=False):
        os.environ["OPEN_TRAINERS"] = "noisy"
        with open(os.path.join(self.args.output_dir, "notes.txt"), "a") as notes:
            notes.write("a step\n")
        self.save_model()
        self.save_state()
        self.log({"a_loss": 1.0})
        return super().compute_loss(model, inputs, return_outputs)


class Swaps(GradAscent):
    """Trains a copy of the model."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model = self.model_wrapped = copy.deepcopy(self.model)


class Unfreezes(GradAscent):
    """Trains all weights, also those that were frozen."""

    def create_optimizer(self, *args, **kwargs):
        for weight in self.model.parameters():
            weight.requires_grad = True
        return super().create_optimizer(*args, **kwargs)


class Raises(GradDiff):
    def compute_loss(self, model, inputs, return_outputs=False):
        raise RuntimeError("the moon is in the wrong house")


class OutOfMemory(GradDiff):
    def compute_loss(self, model, inputs, return_outputs=False):
        raise MemoryError


class Alternates(GradDiff):
    """Reads other answers to the forget set's questions, as DPO does."""

    def compute_loss(self, model, inputs, return_outputs=False):
        return model(**inputs["forget"]["alternate"]).loss


def no_trainer(model, inputs):
    """Is no trainer."""
