"""The methods and controls of this repository, by their classes."""

from unlearners.bad_teacher import BadTeacher
from unlearners.certified import Certified
from unlearners.cfk import CFk
from unlearners.controls import Identity, Retrain, Short, Wrecked
from unlearners.euk import EUk
from unlearners.ga import GA
from unlearners.gd import GD
from unlearners.graddiff import GradDiff
from unlearners.influence import Influence
from unlearners.l1_sparse import L1Sparse
from unlearners.msa import MSA
from unlearners.neggrad_plus import NegGradPlus
from unlearners.ngd import NGD
from unlearners.npo import NPO
from unlearners.potion import Potion
from unlearners.rewind import Rewind
from unlearners.rmu import RMU
from unlearners.salun import SalUn
from unlearners.scrub import SCRUB
from unlearners.scrub_r import SCRUBR
from unlearners.simnpo import SimNPO
from unlearners.ssd import SSD
from unlearners.task_arithmetic import TaskArithmetic
from unlearners.undial import UNDIAL
from unlearners.undo import UNDO

__all__ = [
    "GA",
    "GD",
    "MSA",
    "NGD",
    "NPO",
    "RMU",
    "SCRUB",
    "SCRUBR",
    "SSD",
    "UNDIAL",
    "UNDO",
    "BadTeacher",
    "CFk",
    "Certified",
    "EUk",
    "GradDiff",
    "Identity",
    "Influence",
    "L1Sparse",
    "NegGradPlus",
    "Potion",
    "Retrain",
    "Rewind",
    "SalUn",
    "Short",
    "SimNPO",
    "TaskArithmetic",
    "Wrecked",
]
