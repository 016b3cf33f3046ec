"""Files and folders that are written whole or not at all, whoever writes them."""

import pytest

from harness.report.document import write_text
from harness.store.files import whole


def test_a_file_is_replaced_at_the_end(tmp_path):
    target = tmp_path / "file.json"
    target.write_text("old")
    with whole(target) as temporary:
        temporary.write_text("new")
        assert (temporary.parent, temporary.exists(), target.read_text()) == (tmp_path, True, "old")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_there_at_the_end(tmp_path):
    with whole(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("new")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "file").read_text() == "new"


def half(target, folder):
    with whole(target) as temporary:
        if folder:
            temporary.mkdir()
        (temporary / "file" if folder else temporary).write_text("half")
        raise ZeroDivisionError


@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_left_of_what_could_not_be_written(tmp_path, folder):
    (tmp_path / "target").write_text("old")
    with pytest.raises(ZeroDivisionError):
        half(tmp_path / "target", folder)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_left_of_what_could_not_be_renamed(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("old")
    with pytest.raises(OSError, match="target"), whole(tmp_path / "target") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_text_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "report.html", "half a pair: \ud800")
    assert list(tmp_path.iterdir()) == []
