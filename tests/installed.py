"""An environment of its own in which the project is installed, as strangers have it: no checkout, no network."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, **environment):
    """Run a command with none of this process's pytest, Python and GitHub in its environment."""
    left_out = ("PYTEST", "PYTHON", "GITHUB_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(left_out)} | {"COLUMNS": "120"}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env={**clean, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip


class Installed:
    """A virtual environment with wheels in it; torch and pytest shine through from the one that runs this.

    Args:
        folder: Where to make it.
        sources: Projects to build wheels of, and to install.
        editable: Whether to install the sources in place, without a wheel.
    """

    def __init__(self, folder: Path, *sources: Path, editable: bool = False) -> None:
        self.folder = folder
        venv.create(folder / "env", with_pip=True)
        self.bin = folder / "env" / "bin"
        self.python = self.bin / "python"
        site = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout
        below = [path for path in sys.path if path.endswith("site-packages")]
        # What such a file adds is searched last, and no link to a checkout in there is followed.
        (Path(site.strip()) / "below.pth").write_text("\n".join(below) + "\n")
        self.wheels = []
        for source in () if editable else sources:
            command = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "wheels", source)
            done = run(sys.executable, *command, cwd=folder)
            assert done.returncode == 0, done.stdout
        self.wheels = sorted((folder / "wheels").glob("*.whl"))
        targets = ("--no-build-isolation", *(f"-e{source}" for source in sources)) if editable else self.wheels
        done = run(self.python, "-m", "pip", "install", "--no-deps", "--no-index", *targets, cwd=folder)
        assert done.returncode == 0, done.stdout
        self.store = folder / "store"
