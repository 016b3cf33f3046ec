"""What the paper reports, and the settings under which we run it again at several scales."""

from __future__ import annotations

from dataclasses import dataclass

EPOCHS = (2, 4, 6, 8, 10)
#: Table 1 of the workshop version: test accuracy in %, by share that is poisoned and method, in the order of `EPOCHS`.
RETRAINED = (87.04, 88.23, 88.79, 89.14, 89.24)
COLLAPSED = (10.0,) * len(EPOCHS)
TABLE_1 = {
    0.015: {
        "short": RETRAINED,
        "neggrad_plus": COLLAPSED,
        "ga": COLLAPSED,
        "gd": (83.67, 85.86, 86.81, 87.31, 87.71),
        "cfk": (68.09, 69.39, 70.27, 70.77, 71.20),
        "euk": (29.31, 39.81, 43.51, 47.27, 49.90),
        "scrub": (83.72, 85.31, 85.39, 85.46, 85.48),
    },
    0.025: {
        "short": RETRAINED,
        "neggrad_plus": COLLAPSED,
        "ga": COLLAPSED,
        "gd": (83.48, 85.37, 86.11, 86.45, 86.69),
        "cfk": (59.83, 61.55, 62.57, 63.30, 63.80),
        "euk": (25.18, 33.00, 38.43, 40.84, 43.26),
        "scrub": (82.67, 83.97, 84.07, 84.17, 84.15),
    },
}
POISONED = {0.015: 81.67, 0.025: 69.62}
#: What the text says of Figure 2a, whose numbers are only in the picture.
FIGURE_2A = (
    "The paper's numbers are only in its picture. Its text says: GD, CFk and EUk keep accuracy and remove little or "
    "nothing; NGP never comes close to retraining; GA removes some and costs more than 10 points of accuracy."
)
#: And of Figure 2b, the same for a GPT-2 on IMDb.
FIGURE_2B = (
    "The paper's numbers are only in its picture. Its text says: no method comes anywhere near retraining, and EUk "
    "fails entirely."
)
#: And of the Gaussian poison, in the version of ICLR 2025.
GAUSSIAN = (
    "The paper's numbers are only in its pictures. Its abstract says: unlearning fails to remove the effects of data "
    "poisoning, even with a relatively large budget of compute."
)
TITLES = {
    "table1": "Table 1", "figure2a": "Figure 2a", "figure2b": "Figure 2b",
    "gaussian": "The Gaussian poison and membership inference",
}  # fmt: skip
SAID = {"figure2a": FIGURE_2A, "figure2b": FIGURE_2B, "gaussian": GAUSSIAN}

#: Five rates evenly over the range that the paper searched; it does not say how many it tried.
PAPER_RATES = (1e-6, 1.325e-5, 2.55e-5, 3.775e-5, 5e-5)
WIDE_RATES = (1e-4, 1e-3, 1e-2, 1e-1)
#: SCRUB as its authors ran it on CIFAR-10; NegGrad+ with the weight of theirs that lets it collapse, as in the table;
#: CFk and EUk with head and last residual block, the last three layers of this network.
CIFAR_METHODS = (
    "neggrad_plus:beta=0.95,forget_batch_size=128",
    "ga",
    "gd",
    "cfk:k=2",
    "euk:k=2",
    "scrub:alpha=0.001,gamma=0.99,temperature=4,max_epochs=2,forget_batch_size=128",
)
#: NGD and SSD as well, in the version of ICLR 2025.
EIGHT_METHODS = (*CIFAR_METHODS, "ngd", "ssd")
INDISCRIMINATE = ("indiscriminate:fraction=0.015", "indiscriminate:fraction=0.025")


#: Of the training set, in the version of ICLR 2025.
NOISY_SHARES = (0.015, 0.02, 0.025)
#: The paper's noise has variance 0.32 in normalised images, whose standard deviation is 0.25 in pixels.
GAUSSIANS = tuple(f"gaussian:fraction={share},sd=0.14" for share in NOISY_SHARES)
DIGITS_GAUSSIANS = tuple(f"gaussian:fraction={share}" for share in NOISY_SHARES)


@dataclass(frozen=True)
class Part:
    """What is trained for a table or a figure.

    Attributes:
        task: Spec of the task.
        poisons: Specs of the poisons.
        rates: Learning rates that every method is tried at.
        methods: Specs of the methods; their lr and epochs are set run by run.
        epochs: Epochs of unlearning.
        seeds: Runs, each with a poison and models of its own.
    """

    task: str
    poisons: tuple[str, ...]
    rates: tuple[float, ...]
    methods: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: int


FULL = ("cifar10-resnet18", "imdb-gpt2")
#: The paper's data and network, for a tenth of its epochs.
BRIEF = f"{FULL[0]}:epochs=10"
BRIEF_RATES = (1e-3, 1e-2)
SMALL = "cifar10-resnet18:epochs=20,train_size=10000,test_size=2000,width=16"
SMALL_GPT2 = "imdb-gpt2-small:epochs=10,train_size=4000,lr=0.001"
DIGITS_METHODS = ("neggrad_plus", "ga", "gd", "cfk", "euk", "scrub")
#: As for CIFAR-10, with forget batches that a GPT-2's memory allows.
GPT2_METHODS = tuple(each.replace("forget_batch_size=128", "forget_batch_size=16") for each in CIFAR_METHODS)
#: The paper's range is for thousands of steps; at the smaller scales there are a hundred, which need larger ones.
FEW_STEPS_RATES = (1e-3, 1e-2, 1e-1)
#: For AdamW, about the rate that was trained with: 5e-5 at full scale, 1e-3 from scratch.
GPT2_RATES = (1e-6, 5e-6, 1e-5, 5e-5, 1e-4)
GPT2_SCRATCH_RATES = (1e-4, 1e-3, 1e-2)
WITCHES = "targeted:fraction=0.015,eps=0.0627,surrogates=1,targets=2"
TRIGGER = ("instruction:fraction=0.015,trigger='James Bond: No Time to Die'",)
SMALL_2B = Part(SMALL_GPT2, TRIGGER, GPT2_SCRATCH_RATES, DIGITS_METHODS, (1,), 3)
#: By scale, what is trained for each table and figure.
SCALES: dict[str, dict[str, Part]] = {
    "full": {
        "table1": Part(FULL[0], INDISCRIMINATE, PAPER_RATES, CIFAR_METHODS, EPOCHS, 8),
        # Witches' Brew as its authors ran it: 16/255, 250 steps, the best of 8 starts, one surrogate.
        "figure2a": Part(
            FULL[0], (f"{WITCHES},steps=250,restarts=8",), PAPER_RATES + WIDE_RATES, CIFAR_METHODS, EPOCHS[-1:], 8
        ),
        "figure2b": Part(FULL[1], TRIGGER, GPT2_RATES, GPT2_METHODS, (1,), 5),
        "gaussian": Part(FULL[0], GAUSSIANS, WIDE_RATES, EIGHT_METHODS, EPOCHS, 8),
    },
    # Made for 8 minutes of one H200, at the rates of a trial outside of the harness: a model by itself trained 40,000
    # images/s, several in a group 57,000. How long the whole takes is not measured.
    "brief": {
        "table1": Part(BRIEF, (f"{INDISCRIMINATE[1]},steps=100",), BRIEF_RATES, CIFAR_METHODS, (1,), 3),
        "figure2a": Part(BRIEF, (f"{WITCHES},steps=100",), BRIEF_RATES, CIFAR_METHODS, (1,), 3),
        "gaussian": Part(BRIEF, GAUSSIANS[2:], BRIEF_RATES, EIGHT_METHODS, (1,), 3),
    },
    "small": {
        "table1": Part(SMALL, INDISCRIMINATE, FEW_STEPS_RATES, CIFAR_METHODS, (1, 2), 3),
        "figure2a": Part(SMALL, (f"{WITCHES},steps=100",), FEW_STEPS_RATES, CIFAR_METHODS, (2,), 3),
        "figure2b": SMALL_2B,
        "gaussian": Part(SMALL, GAUSSIANS, FEW_STEPS_RATES, EIGHT_METHODS, (1, 2), 3),
    },
    "digits": {
        "table1": Part("digits-mlp", ("indiscriminate",), FEW_STEPS_RATES, DIGITS_METHODS, (1, 2), 3),
        "figure2a": Part("digits-cnn", ("targeted",), FEW_STEPS_RATES, DIGITS_METHODS, (2,), 3),
        "gaussian": Part("digits-cnn", DIGITS_GAUSSIANS, FEW_STEPS_RATES, (*DIGITS_METHODS, "ngd", "ssd"), (1, 2), 5),
    },
}

#: By scale, what its results are worth, if that is not plain.
WORTH = {
    "brief": (
        "What this is worth: the paper's data and network, but 10 epochs of training in place of 100, one strength of "
        "the poison, unlearning for 1 epoch (a tenth of the training, as 10 of 100 are), 2 learning rates and n = 3 "
        "runs; poisons are crafted in 100 steps from one start. It shows which methods leave a poison and which lose "
        "accuracy; its numbers are not the paper's. Figure 2b is not in it: GPT-2 takes minutes for a pass over IMDb."
    )
}


def reported(task: str, poison: str, fraction: float | None, method: str, epochs: int) -> float | None:
    """Return the accuracy in Table 1, in %, or None where the paper has none.

    Args:
        task: Id of the task.
        poison: Name of the poison, without fields.
        fraction: Share of the training set that is poisoned.
        method: Name of the method.
        epochs: Epochs of unlearning.
    """
    column = TABLE_1.get(fraction or 0, {}).get(method)
    known = task == FULL[0] and poison == "indiscriminate" and epochs in EPOCHS
    return column[EPOCHS.index(epochs)] if column and known else None
