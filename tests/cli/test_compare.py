"""``results`` and ``compare``: tables and changes from the command line."""

import json

import documents
import pytest

from harness.cli.main import main


@pytest.fixture
def files(tmp_path):
    written = []
    for i, methods in enumerate((("good", "bad"), ("bad", "good"))):
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps(documents.document(methods)))
        written.append(str(path))
    return written


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("text", "good on task  verdict"),
        ("csv", "unlearner,task,poison"),
        ("markdown", "| method | task |"),
        ("latex", "\\begin{tabular}{lllllll}"),
    ],
)
def test_results_are_printed_in_a_form(files, capsys, form, start):
    assert main(["results", files[0], "--to", form]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(start)
    assert printed.endswith("\n")


def test_a_broken_method_is_red_with_a_sentence_that_says_by_how_much(files, tmp_path, capsys):
    page = tmp_path / "history.html"
    assert main(["compare", *files, f"--html={page}"]) == 1
    printed = capsys.readouterr().out
    assert "worse: good on task, noise, poison left: PASS" in printed
    assert "moved by +0.8" in printed
    assert "History of 2 runs" in page.read_text()


def test_an_unchanged_result_is_green(files, capsys):
    assert main(["compare", files[0], files[0]]) == 0
    assert "6 of 6 audits: the same verdict" in capsys.readouterr().out


def test_what_was_worse_before_the_last_run_is_no_longer_red(files):
    assert main(["compare", files[0], files[1], files[0]]) == 1  # `bad` is worse again
    assert main(["compare", *files, files[1]]) == 0


def test_one_result_cannot_be_compared(files, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", files[0]])
    assert caught.value.code == 2
    assert "name at least two results, the earlier one first" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_refused(files, tmp_path, capsys):
    assert main(["compare", *files, f"--html={tmp_path / 'missing' / 'page.html'}"]) == 2
    assert "the directory of" in capsys.readouterr().err
