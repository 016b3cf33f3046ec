"""Signatures of bundles: those of OpenSSH, with the keys that people push code with."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from harness.api import UnlearningError


class Untrue(UnlearningError):  # noqa: N818 - it reads as what it is
    """A bundle is not what it says."""


#: What OpenSSH calls a namespace: a signature for another purpose is none for a bundle.
NAMESPACE = "pytest-unlearning"


def sign(content: bytes, key: Path) -> bytes:
    """Return the signature of some bytes.

    Args:
        content: What is signed.
        key: A private key of OpenSSH; or the public one, if an agent holds the private one. A passphrase is asked for.

    Raises:
        UnlearningError: The key cannot be used, or there is no ssh-keygen.
    """
    with tempfile.TemporaryDirectory(prefix="unlearning-sign-") as folder:
        file = Path(folder) / "manifest.json"
        file.write_bytes(content)
        code, said = _keygen(["-Y", "sign", "-q", "-f", str(key.expanduser()), "-n", NAMESPACE, str(file)])
        if code:
            raise UnlearningError(f"the key {key} cannot sign: {said}")
        return file.with_name(f"{file.name}.sig").read_bytes()


def signer(content: bytes, signature: bytes, signers: Path) -> str:
    """Return who signed some bytes, as a file of allowed signers calls them.

    Args:
        content: What was signed.
        signature: Its signature.
        signers: The file, in the form of ssh-keygen's ``ALLOWED SIGNERS``: a name and a public key on each line.

    Raises:
        Untrue: The signature is not that of these bytes, or nobody in the file may have made it.
        UnlearningError: There is no such file, it has no public key, or there is no ssh-keygen.
    """
    if not signers.is_file():
        raise UnlearningError(f"the file of signers {signers} is missing; write a name and a public key on each line")
    with tempfile.TemporaryDirectory(prefix="unlearning-sign-") as folder:
        file = Path(folder) / "signature"
        file.write_bytes(signature)
        code, names = _keygen(["-Y", "find-principals", "-s", str(file), "-f", str(signers)])
        if code and not _has_key(signers):
            raise UnlearningError(f"no line of {signers} has a public key; write a name and a public key on each line")
        if code:
            raise Untrue(f"nobody in {signers} has signed this bundle")
        for name in names.splitlines():
            check = ["-Y", "verify", "-f", str(signers), "-I", name, "-n", NAMESPACE, "-s", str(file)]
            if _keygen(check, content)[0] == 0:
                return name
    raise Untrue(
        f"{names.splitlines()[0]} has not signed what is in this bundle: it was changed since, or {signers} does not "
        f"let this key sign for {NAMESPACE} today"
    )


def _has_key(signers: Path) -> bool:
    """Return whether some line of a file has what can be read as a public key behind a name."""
    lines = signers.read_text(encoding="utf-8", errors="replace").splitlines()
    keys = "".join(f"{line.partition(' ')[2]}\n" for line in lines if not line.lstrip().startswith("#"))
    return _keygen(["-l", "-f", "-"], keys.encode())[0] == 0


def _keygen(arguments: list[str], given: bytes | None = None) -> tuple[int, str]:
    """Run ssh-keygen; return its exit code and what it said."""
    try:
        done = subprocess.run(["ssh-keygen", *arguments], input=given, capture_output=True, check=False)
    except FileNotFoundError:
        raise UnlearningError("ssh-keygen was not found; install OpenSSH 8.2 or later") from None
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace").strip()
