"""Scripts of `ci`, run as they are started."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny import Tiny

ROOT = Path(__file__).resolve().parent.parent.parent
REPRODUCE = ROOT / "ci" / "reproduce"
GPU_CHECK = ROOT / "ci" / "gpu_check.py"
TINY = Tiny()


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def script(monkeypatch, tmp_path, capfd):
    """Runs a script as ``python SCRIPT ARGS`` does, in this process, where torch is imported already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "ci")
    threads = torch.get_num_threads()

    def run(path, *args):
        monkeypatch.setattr(sys, "argv", [str(path), *args])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(path), run_name="__main__")
        return Done(exit_.value.code, *capfd.readouterr())

    yield run
    torch.set_num_threads(threads)


WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
