"""The methods and controls of this repository, by their classes."""

from unlearners.bad_teacher import BadTeacher
from unlearners.certified import Certified
from unlearners.cfk import CFk
from unlearners.controls import Identity, Retrain, Short, Wrecked
from unlearners.euk import EUk
from unlearners.ga import GA
from unlearners.gd import GD
from unlearners.influence import Influence
from unlearners.l1_sparse import L1Sparse
from unlearners.msa import MSA
from unlearners.neggrad_plus import NegGradPlus
from unlearners.ngd import NGD
from unlearners.potion import Potion
from unlearners.rewind import Rewind
from unlearners.salun import SalUn
from unlearners.scrub import SCRUB
from unlearners.scrub_r import SCRUBR
from unlearners.ssd import SSD
from unlearners.undo import UNDO

__all__ = [
    "GA",
    "GD",
    "MSA",
    "NGD",
    "SCRUB",
    "SCRUBR",
    "SSD",
    "UNDO",
    "BadTeacher",
    "CFk",
    "Certified",
    "EUk",
    "Identity",
    "Influence",
    "L1Sparse",
    "NegGradPlus",
    "Potion",
    "Retrain",
    "Rewind",
    "SalUn",
    "Short",
    "Wrecked",
]
