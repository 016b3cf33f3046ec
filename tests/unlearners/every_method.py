"""The methods and controls of this repository, by their classes."""

from unlearners.cfk import CFk
from unlearners.controls import Identity, Retrain, Short, Wrecked
from unlearners.euk import EUk
from unlearners.ga import GA
from unlearners.gd import GD
from unlearners.neggrad_plus import NegGradPlus
from unlearners.ngd import NGD
from unlearners.rewind import Rewind
from unlearners.scrub import SCRUB
from unlearners.ssd import SSD
from unlearners.undo import UNDO

__all__ = [
    "GA",
    "GD",
    "NGD",
    "SCRUB",
    "SSD",
    "UNDO",
    "CFk",
    "EUk",
    "Identity",
    "NegGradPlus",
    "Retrain",
    "Rewind",
    "Short",
    "Wrecked",
]
