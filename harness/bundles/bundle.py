"""The file of a bundle: a zip with the result, a manifest, its signature, and the packed store that it rests on.

A bundle without models lacks the last.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.api import UnlearningError
from harness.bundles.made import Made
from harness.bundles.signing import Untrue, sign, signer
from harness.report.document import IN_BUNDLE, read
from harness.report.form import misfit
from harness.store.packing import GROWS, NO_ZIP, digest_of, new_zip, swollen

#: Members of the zip. The manifest holds the SHA-256 of the first two and what they were made by; it alone is signed.
RESULT, STORE, MANIFEST, SIGNATURE = IN_BUNDLE, "store.zip", "manifest.json", "manifest.json.sig"
#: Version of this form.
FORM = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle that is what its manifest says.

    Attributes:
        document: The JSON result.
        store: The packed store; None without models.
        made: What it was made by and on.
        signed_by: Who signed it; None if nobody did, or nobody asked.
        signed: Whether it has a signature.
    """

    document: Mapping[str, Any]
    store: Path | None
    made: Made
    signed_by: str | None
    signed: bool


def write(target: Path, result: Path, store: Path | None, made: Made, key: Path | None) -> None:
    """Write a bundle, completely or not at all.

    Args:
        target: The bundle.
        result: The JSON result.
        store: The packed store; None to leave the models out.
        made: What the result was made by and on.
        key: What it is signed with, as for `sign`; None to leave it unsigned.

    Raises:
        UnlearningError: The key cannot be used, or the bundle cannot be written.
    """
    digests = {RESULT: digest_of(result)} | ({} if store is None else {STORE: digest_of(store)})
    listed = {"form": FORM, "sha256": digests, "made": asdict(made)}
    manifest = json.dumps(listed, indent=1, sort_keys=True).encode()
    signature = None if key is None else sign(manifest, key)
    with new_zip(target) as archive:
        archive.writestr(MANIFEST, manifest)
        if signature is not None:
            archive.writestr(SIGNATURE, signature)
        archive.write(result, RESULT, zipfile.ZIP_DEFLATED)
        if store is not None:
            archive.write(store, STORE)


def opened(bundle: Path, folder: Path, signers: Path | None) -> Bundle:
    """Take a bundle apart, and check that it is what was signed.

    Args:
        bundle: The bundle.
        folder: Where its parts are written.
        signers: Who may have signed it, as for `signer`; None to check no signature.

    Raises:
        Untrue: It was changed, its result has another form than is published, or it was not signed by one of these.
        UnlearningError: It is no bundle that this version reads, or the signature cannot be checked.
        OSError: It cannot be read.
    """
    try:
        with zipfile.ZipFile(bundle) as archive:
            _require_size(archive, bundle.stat().st_size)
            parts = {name: archive.read(name) for name in (MANIFEST, SIGNATURE) if name in archive.namelist()}
            manifest = json.loads(parts[MANIFEST])
            if manifest["form"] != FORM:
                raise UnlearningError(f"{bundle} has form {manifest['form']}, and this version reads {FORM}; upgrade")
            if signers is not None and SIGNATURE not in parts:
                raise Untrue("the bundle is not signed")
            by = None if signers is None else signer(parts[MANIFEST], parts[SIGNATURE], signers)
            models = STORE in manifest["sha256"]
            for name in (RESULT, STORE) if models else (RESULT,):
                with archive.open(name) as part, (folder / name).open("wb") as file:
                    shutil.copyfileobj(part, file)
                if digest_of(folder / name) != manifest["sha256"][name]:
                    raise Untrue(f"the bundle was changed: its {name} is not the one of its manifest")
            of = manifest["made"]
            made = Made(dict(of["sources"]), str(of["device"]), str(of["machine"]))
    except (KeyError, TypeError, ValueError, *NO_ZIP):
        raise UnlearningError(f"{bundle} is no bundle; name a file that pytest-unlearning submit wrote") from None
    document = read(folder / RESULT)
    if wrong := misfit(document):
        raise Untrue(f"its result is none that --audit-json writes: {wrong}")
    return Bundle(document, folder / STORE if models else None, made, by, SIGNATURE in parts)


def _require_size(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse a bundle of so many bytes that would fill the memory or the disk.

    The store is a zip, whose parts become larger once more. So in the bundle it must stand as it is.

    Raises:
        Untrue: It would.
    """
    if name := swollen(archive, size):
        raise Untrue(f"the {name} of the bundle claims to be more than {GROWS} times as large as the bundle")
    if STORE in archive.namelist() and archive.getinfo(STORE).file_size > size:
        raise Untrue(f"the {STORE} of the bundle claims to be larger than the bundle")
