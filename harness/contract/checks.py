"""The checks of the contract: an unlearner is run on small generated problems, and watched.

A problem is a little network trained for a few passes on a few dozen images, some of them mislabelled; runs take
milliseconds. For a method that serves one task alone, it is a model of that task, trained on a few of its rows.

What must hold on every request is tried on the edge cases of `EDGES` and on requests that hypothesis draws. What some
sound method may not show on some request (that the forget set matters, say) is held against it only where no request
shows it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.api import ContractError, UnlearningError, declares
from harness.contract.lines import BrokenContract, Clause, NotExamined
from harness.contract.requests import EDGES, GENERATED, ORDINARY, Case, generated
from harness.contract.watching import Examination, Run, examination_of
from harness.training.roundtrip import DIFFERS

#: Two results differ if they are further apart than this share of how far the method moved the weights, and so many
#: times further than two results of the same request.
DIFFERENT, CLEARLY = 1e-4, 10


def check(clause: Clause) -> None:
    """Check one line of the contract.

    Raises:
        BrokenContract: It does not hold.
        NotExamined: Nothing could be said, because the method raised.
    """
    examination = examination_of(clause.method, clause.budget, clause.epochs, clause.task, clause.datasets)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        CHECKS[clause.line](examination, clause.line)
    finally:
        torch.set_num_threads(threads)


def _serves(examination: Examination, line: str) -> None:
    """Check that the ordinary request is served, and that any other is served or refused in words."""
    ordinary = line == "ordinary-request"
    like_it = [case for case in generated(GENERATED) if case.forget > 1 and case.batch_size <= case.retain]
    for case in [EDGES[line], *(like_it if ordinary else [])]:
        error = examination.run(case).error
        if error is None or (isinstance(error, ContractError) and error.line):
            continue
        who = f"the unlearner {examination.method.id!r}"
        said = " ".join(str(error).split())
        if not isinstance(error, UnlearningError):
            raise BrokenContract(line, f"{who} raised {type(error).__name__}: {said[:200]}", str(case)) from error
        if case is EDGES["ordinary-request"]:
            raise BrokenContract(line, f"{who} refused an ordinary request: {said[:200]}", str(case)) from error
        if not said:
            raise BrokenContract(line, f"{who} refused without giving a reason", str(case)) from error


def _on_every_request(
    check: Callable[[Examination, Case, Run], str | None],
) -> Callable[[Examination, str], None]:
    """Return a check that must say nothing against any request; it returns what is wrong, or None.

    What the harness itself refused under this line is wrong too.
    """

    def examine_all(examination: Examination, line: str) -> None:
        seen = 0
        for case in (*EDGES.values(), *generated(GENERATED)):
            run = examination.run(case)
            if isinstance(run.error, ContractError) and run.error.line == line:
                raise BrokenContract(line, str(run.error), str(case))
            if run.error is not None:
                continue
            seen += 1
            if wrong := check(examination, case, run):
                raise BrokenContract(line, f"the unlearner {examination.method.id!r} {wrong}", str(case))
        if not seen:
            raise NotExamined("it returned no model on any request; the other lines show why")

    return examine_all


def _on_some_request(
    check: Callable[[Examination, Case, Run], bool | None], wrong: str
) -> Callable[[Examination, str], None]:
    """Return a check that one ordinary request must satisfy; it returns None where nothing can be said."""

    def examine_some(examination: Examination, line: str) -> None:
        seen = False
        for case in ORDINARY:
            run = examination.good(case)
            answer = check(examination, case, run) if run is not None else None
            if answer:
                return
            seen = seen or answer is not None
        if not seen:
            raise NotExamined(
                "on no ordinary request did it return changed, finite weights, and the same weights again under the "
                "same seed"
            )
        sentence = f"the unlearner {examination.method.id!r} {wrong}"
        raise BrokenContract(line, sentence, f"{ORDINARY[0]}, and {len(ORDINARY) - 1} others")

    return examine_some


def _nothing_more(_e: Examination, _c: Case, _r: Run) -> None:
    """Leave it to what the harness refuses."""


def _finite(_e: Examination, _c: Case, run: Run) -> str | None:
    assert run.model is not None
    odd = [name for name, t in run.model.state_dict().items() if t.is_floating_point() and not t.isfinite().all()]
    return f"returned weights that are not finite, first {odd[0]!r}" if odd else None


def _untouched(_e: Examination, _c: Case, run: Run) -> str | None:
    return (
        f"changed the {' and the '.join(run.changed)} in place; it must copy what it changes" if run.changed else None
    )


def _flags(examination: Examination, _c: Case, run: Run) -> str | None:
    assert run.model is not None
    own = examination.ground.trainable
    frozen = [name for name, parameter in run.model.named_parameters() if not parameter.requires_grad and name in own]
    return f"returned parameters that no longer require gradients, first {frozen[0]!r}" if frozen else None


def _hooks(_e: Examination, _c: Case, run: Run) -> str | None:
    assert run.model is not None
    for name, module in run.model.named_modules():
        if any(held for attribute, held in vars(module).items() if attribute.endswith("_hooks")):
            return f"left hooks on {name or 'the model'!r}; it must remove them"
        if "forward" in vars(module):
            return f"left a forward of its own on {name or 'the model'!r}; only the weights are audited"
    for name, parameter in run.model.named_parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"left hooks on {name!r}; it must remove them"
    return None


def _shares(_e: Examination, _c: Case, run: Run) -> str | None:
    assert run.model is not None
    own = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    parts = {id(module) for module in run.model.modules()}
    if id(run.model) not in run.called:  # weights that were assigned to it in the end do no harm
        return None
    for other in run.called.values():
        if id(other) not in parts and any(p.untyped_storage().data_ptr() in own for p in other.parameters()):
            return "used a second model that shares weights with the one it returned; make copies with copy.deepcopy"
    return None


def _in_state(_e: Examination, _c: Case, run: Run) -> str | None:
    assert run.model is not None
    if run.kept or _hooks(_e, _c, run):  # which is said under its own line
        return None
    return f"returned {DIFFERS}"


def _repeats(examination: Examination, case: Case, run: Run) -> str | None:
    if not declares(examination.method.value, "repeatable"):
        return None
    again = examination.good(case, "again")
    if again is None:
        return "returned a model the first time and raised an exception the second time"
    if run.digest != again.digest:
        return (
            "returned different weights under the same seed; it must keep nothing from one call to the next, and draw "
            "only from request.generator or from the generators of torch, numpy and Python, which are seeded; "
            "otherwise it must declare repeatable = False"
        )
    return None


def _within_budget(examination: Examination, case: Case, run: Run) -> str | None:
    if not examination.ground.counted:
        return None
    allowed = examination.budget * case.retain
    if run.examples <= allowed * (1 + 1e-6):
        return None
    return (
        f"used {run.examples:.0f} examples forward and backward; {allowed:.0f} are allowed "
        f"({examination.budget:g} passes over the retain set); see request.budget and request.affordable"
    )


def _changes(_e: Examination, _c: Case, run: Run) -> bool:
    return bool((run.move != 0).any()) or (run.buffers_moved and not run.optimised)


def _differs(examination: Examination, case: Case, run: Run, variant: str) -> bool | None:
    """Return whether a variant of a request gives another result; None where nobody can tell."""
    other, again = examination.good(case, variant), examination.good(case, "again")
    if other is None or again is None:
        return None
    apart = run.distance(other)
    if apart <= DIFFERENT:
        return False
    return True if apart > CLEARLY * run.distance(again) else None


def _depends(examination: Examination, case: Case, run: Run) -> bool | None:
    return _differs(examination, case, run, "moved")


def _reads(examination: Examination, case: Case, run: Run) -> bool | None:
    return _differs(examination, case, run, "replaced")


def _is_blind(examination: Examination, case: Case, run: Run) -> str | None:
    again, replaced = examination.good(case, "again"), examination.good(case, "replaced")
    if again is None or again.digest != run.digest:
        return None
    if replaced is None:
        return "returned a model, but raised an exception when the forget set held other points"
    if replaced.digest != run.digest:
        return "declares reads_forget = False, but its result depends on what the forget set holds"
    return None


def _as_declared(examination: Examination, line: str) -> None:
    method = examination.method.value
    if declares(method, "from_scratch"):
        return  # it gets none to read
    if declares(method, "reads_forget") is None:
        return  # a removal of a team's own, of which nobody says
    if declares(method, "reads_forget"):
        _on_some_request(
            _reads,
            "gives the same result whatever the forget set holds; if this is intended, declare reads_forget = False; "
            "if not, check that a teacher is a copy (copy.deepcopy) and that the loss on the forget set is used",
        )(examination, line)
    else:
        _on_every_request(_is_blind)(examination, line)


CHECKS: dict[str, Callable[[Examination, str], None]] = {
    **dict.fromkeys(EDGES, _serves),
    "same-architecture": _on_every_request(_nothing_more),
    "settings": _on_every_request(_nothing_more),
    "finite-weights": _on_every_request(_finite),
    "changes-weights": _on_some_request(
        _changes,
        "returned the parameters of the model unchanged; check that an optimiser steps, and that it is this model's",
    ),
    "depends-on-split": _on_some_request(
        _depends, "gives the same result whichever points are to be forgotten: it does not use the request"
    ),
    "reads-forget": _as_declared,
    "data-untouched": _on_every_request(_untouched),
    "grad-flags": _on_every_request(_flags),
    "no-hooks": _on_every_request(_hooks),
    "no-shared-weights": _on_every_request(_shares),
    "patches": _on_every_request(_nothing_more),
    "leaves-nothing-running": _on_every_request(_nothing_more),
    "state-dict": _on_every_request(_in_state),
    "repeatable": _on_every_request(_repeats),
    "budget": _on_every_request(_within_budget),
}
