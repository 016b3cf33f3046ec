"""The bar of an audit from Python."""

from tiny import Tiny

import harness


def audit(store, **options):
    harness.audit("gd", task=Tiny(), poison="backdoor:size=1", seeds=3, store=store, **options)


def test_a_bar_shows_what_is_trained_and_ends_full(tmp_path, capsys):
    audit(tmp_path, progress=True)
    shown = capsys.readouterr().err
    assert "audit of gd: " in shown
    assert "retraining, seed 0" in shown
    last = shown.rstrip("\n").rpartition("\r")[2]
    done, total = last.partition("|")[2].rpartition("| ")[2].split()[0].split("/")
    assert done == total != "0"
    audit(tmp_path, progress=True)
    assert capsys.readouterr().err == ""  # nothing is trained


def test_no_bar_where_nobody_sees_it(tmp_path, capsys):
    audit(tmp_path)
    assert capsys.readouterr().err == ""
