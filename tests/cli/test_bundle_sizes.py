"""A bundle that would fill the memory or the disk is refused before anything of it is read."""

import os
import zipfile

import pytest

from harness.api import UnlearningError
from harness.bundles.bundle import opened
from harness.bundles.signing import Untrue
from harness.report.document import read


def bundle_of(folder, **parts):
    with zipfile.ZipFile(folder / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name.replace("_", "."), content)
    return folder / "bundle.zip"


@pytest.mark.parametrize("part", ["manifest_json", "result_json", "store_zip"])
def test_a_part_that_grows_is_refused(tmp_path, part):
    bomb = bundle_of(tmp_path, **{"manifest_json": b"{}", part: bytes(10**6)})
    with pytest.raises(Untrue, match=f"the {part.replace('_', '.')} of the bundle claims to be more than 100 times"):
        opened(bomb, tmp_path, None)


def test_a_store_that_grows_at_all_is_refused(tmp_path):
    bomb = bundle_of(tmp_path, manifest_json=b"{}", result_json=os.urandom(20_000), store_zip=bytes(10**5))
    with pytest.raises(Untrue, match=r"the store\.zip of the bundle claims to be larger than the bundle"):
        opened(bomb, tmp_path, None)


def test_so_is_one_of_which_the_result_alone_is_read(tmp_path):
    with pytest.raises(UnlearningError, match="would fill the memory"):
        read(bundle_of(tmp_path, result_json=bytes(10**6)))
