"""The memory that a computation took."""

import sys

import pytest

from harness.trials.memory import Memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not count the peak anew")
def test_the_peak_is_of_the_computation():
    with Memory() as before:
        pass
    with Memory() as large:
        held = bytearray(200_000_000)
        held[::4096] = b"x" * len(held[::4096])
        del held
    with Memory() as after:
        pass

    assert 1e8 < large.peak - before.peak < 4e8
    assert after.peak < large.peak - 1e8
