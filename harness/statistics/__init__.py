"""Tests of equivalence, their power, and proven bounds: functions on floats, which need numpy and scipy alone."""

from harness.statistics.bounds import clopper_pearson, eps_lower_single, mu_lower, one_run_eps
from harness.statistics.equivalence import Result, Why, equivalence, equivalence_paired, fieller, retention
from harness.statistics.exact import chi2_score, exact_null, stouffer
from harness.statistics.levels import bad_seed_bound, holm, rejects, t_statistic
from harness.statistics.power import seeds_needed, tost_power
from harness.statistics.robust import e_value, standing_out

__all__ = [
    "Result",
    "Why",
    "bad_seed_bound",
    "chi2_score",
    "clopper_pearson",
    "e_value",
    "eps_lower_single",
    "equivalence",
    "equivalence_paired",
    "exact_null",
    "fieller",
    "holm",
    "mu_lower",
    "one_run_eps",
    "rejects",
    "retention",
    "seeds_needed",
    "standing_out",
    "stouffer",
    "t_statistic",
    "tost_power",
]
