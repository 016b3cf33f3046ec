"""What is noted of a call, and what beside it is not."""

import os
import sys
import threading
from contextlib import nullcontext

import pytest

from harness.guards.events import noting, ours


@pytest.mark.parametrize(("manner", "noted"), [(nullcontext, True), (ours, False)])
def test_a_thread_is_noted_unless_it_is_the_harnesss_own(tmp_path, manner, noted):
    refused = []

    def look():
        with manner():
            try:
                os.listdir(tmp_path)
            except PermissionError:
                refused.append(True)

    with noting((str(tmp_path),)) as notes:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert (bool(notes.files), bool(refused)) == (noted, noted)


def test_what_is_ours_within_what_is_ours_leaves_the_rest_ours(tmp_path):
    with noting((str(tmp_path),)) as notes, ours():
        with ours():
            pass
        os.listdir(tmp_path)
    assert not notes.files


def test_a_call_may_end_while_another_thread_opens_files(tmp_path):
    errors, ended = [], threading.Event()
    interval = sys.getswitchinterval()

    def look():
        while not ended.is_set():
            try:
                os.listdir(tmp_path)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=look)
    sys.setswitchinterval(1e-6)  # so that threads take turns within a call of the hook
    try:
        thread.start()
        for _ in range(20_000):
            with noting():
                pass
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        thread.join()
    assert not errors
