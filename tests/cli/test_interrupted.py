"""What holds for every command: how it ends if it is stopped."""

import os
import signal
import threading

from harness.cli.main import INTERRUPTED, main


def test_ctrl_c_is_a_sentence(tmp_path, capsys):
    os.mkfifo(tmp_path / "result.json")  # which nobody writes to: whoever opens it waits
    stop = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    assert main(["results", str(tmp_path / "result.json")]) == INTERRUPTED
    stop.join()
    assert capsys.readouterr().err == "pytest-unlearning: interrupted\n"
