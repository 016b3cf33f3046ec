"""What the usual metrics conclude, as the terminal and GitHub's summary say it."""

from documents import document

from harness.report import github
from harness.report.document import methods
from harness.report.tables import heuristic_lines

#: A reason of a metric that does not apply, in words of its own.
WHY = "a truth ratio needs other answers beside the planted one, and the poison has none"


def with_metric(claim, verdict="INCONCLUSIVE", reason="need-more-seeds", copies=1):
    """Return a result in which each method has further usual metrics."""
    found = document(heuristics=True)
    for each in list(found["heuristics"]):
        for copy in range(copies):
            name = f"{claim}-{copy}" if copies > 1 else claim
            found["heuristics"].append({**each, "claim": name, "verdict": verdict, "reason": reason})
    return found


def test_metrics_that_are_misled_are_counted():
    found = with_metric("leakage", "PASS", "equivalent")
    lines = heuristic_lines(methods(found))
    said = [line for line in lines if "although" in line]
    assert said == [
        "  2 metrics conclude “unlearned” although the audit of the poison FAILs: membership (noise), leakage (noise)"
    ]
    assert "2 metrics conclude “unlearned” although the audit of the poison FAILs" in github.markdown(found)
    alone = heuristic_lines(methods(document(heuristics=True)))
    assert any(line.strip().startswith("1 metric concludes “unlearned”") for line in alone)
    assert not any("although" in line for line in heuristic_lines(methods(document(["good"], heuristics=True))))


def test_a_metric_that_does_not_apply_says_why():
    found = with_metric("truth-ratio", reason=WHY)
    lines = heuristic_lines(methods(found))
    assert lines.count(f"  truth-ratio (noise) is not judged: {WHY}") == 2
    (row,) = [line for line in lines if line.split()[:2] == ["noise", "FAIL"]]
    assert row.endswith("not judged")
    assert "truth-ratio (noise) is not judged" in github.markdown(found)
    assert not any("not judged" in line for line in heuristic_lines(methods(with_metric("leakage"))))


def test_many_metrics_have_a_line_each():
    few, many = (heuristic_lines(methods(with_metric("other", copies=n))) for n in (2, 12))
    assert few[0].split()[:5] == ["good", "on", "task", "poison", "membership"]
    assert many[0].split() == ["good", "on", "task", "noise"]
    assert [line.split()[0] for line in many[1:4]] == ["poison", "membership", "other-0"]
