"""What a method breaks of the contract."""

from harness import examine, registry
from harness.contract.lines import LINES, BrokenContract, Clause, NotExamined

HALVES = (
    "the unlearner 'broken:halves_the_forget_set' raised ValueError: "
    "batch_size should be a positive integer value, but got batch_size=0"
)
IN_TREE = registry.resolve_all("unlearner", ["all"])


def examined(method, lines=LINES):
    """Return the lines that a method breaks, with what is said of each, and those that could not be examined."""
    if not isinstance(method, registry.Registered):
        method = registry.register("unlearner", method)
    errors, skipped = {}, {}
    for line in lines:
        try:
            examine(Clause(method, line, budget=2.0, epochs=20))
        except BrokenContract as error:
            errors[line] = error
        except NotExamined as reason:
            skipped[line] = str(reason)
    return errors, skipped


def keeps_every_line(method):
    return examined(method) == ({}, {})
