"""What tasks say of the files that they read."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def files_below(folder: Path, *libraries: str) -> dict[str, str]:
    """Return the size and the time of change of every file in a folder, and the version of libraries that read them."""
    status = {path.relative_to(folder).as_posix(): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: f"{of.st_size} bytes, changed at {of.st_mtime_ns} ns" for name, of in status.items()}
    return files | {name: version(name) for name in libraries}


def version(library: str) -> str:
    """Return the version of an installed library, or ``"missing"``."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"
