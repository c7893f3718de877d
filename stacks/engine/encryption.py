"""The encryption of a stack's secrets, and the place where it is written down.

The engine reads it from a stack's file: a salt under `encryptionsalt`, which belongs to a passphrase, or
`secretsprovider` with `encryptedkey` (a KMS). In the committed file it is the team's, and counts. Without it
the engine makes a salt, which stays in the backend's own workspace: another backend has another passphrase.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYS = ("secretsprovider", "encryptedkey", "encryptionsalt")
"""Keys that the engine writes into a stack's file, beside the config."""

PASSPHRASE, PASSPHRASE_FILE = "PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE"

ROUNDS = 1_000_000
"""Rounds of PBKDF2 with SHA-256, in the engine's `sdk/v3/go/common/resource/config/crypt.go`: some 0.25 s."""

PROOF = b"pulumi"
"""The text that the engine encrypts beside a salt, to know the passphrase again."""


DOCS = "docs/environments.md"


@dataclass(frozen=True)
class Passphrase:
    """The passphrase that the engine would take, and its source."""

    text: str
    origin: str
    own_file: Path | None = None
    """Its file, if this checkout has made it for its own state."""

    def fits(self, salt: str) -> bool:
        """Return True if a salt was made with it. One that cannot be read was not."""
        try:
            _, rounds_salt, _, nonce, proof = salt.split(":")
            key = hashlib.pbkdf2_hmac(
                "sha256", self.text.encode(), base64.b64decode(rounds_salt), ROUNDS, dklen=32
            )
            return AESGCM(key).decrypt(base64.b64decode(nonce), base64.b64decode(proof), None) == PROOF
        except (ValueError, binascii.Error, InvalidTag):
            return False


def passphrase_for(state: Path | None, own_file: Path) -> Passphrase | None:
    """The user's passphrase, or that of this checkout's own state; None if there is none that can be read.

    Args:
        state: The file of this checkout's own state, if that is the backend.
    """
    theirs = _of_the_environment()
    if state is None:
        return theirs
    if not {PASSPHRASE, PASSPHRASE_FILE} & set(os.environ):
        _generate(own_file)
        return _own(own_file)
    ours, salt = _own(own_file), salt_of_state(state)
    # Set for a team's state; this one was made before, and without it.
    if ours and theirs and salt and not theirs.fits(salt) and ours.fits(salt):
        return ours
    return theirs


def variables(passphrase: Passphrase | None) -> dict[str, str]:
    """Return variables that make the engine take this checkout's own passphrase; none for the user's, which
    is there."""
    if passphrase is None or passphrase.own_file is None:
        return {}
    if PASSPHRASE in os.environ:
        return {PASSPHRASE: passphrase.text}  # the engine looks at it before the file
    return {PASSPHRASE_FILE: str(passphrase.own_file)}


@dataclass(frozen=True)
class Encryption:
    """The encryption of a run's stack file."""

    settings: Mapping[str, str]
    ignored: bool = False
    """True if the committed file has a salt that is no use."""


def choose(
    committed: Mapping[str, Any],
    kept: Mapping[str, Any],
    *,
    state: Path | None,
    passphrase: Passphrase | None,
    any_encrypted: bool,
) -> Encryption:
    """Choose what encrypts: what is committed, else what is known of this backend.

    Args:
        committed: The stack's file in the checkout.
        kept: The same file in the backend's workspace, as the engine left it.
        state: The file of this checkout's own state, if that is the backend.
        any_encrypted: Whether a value of the committed config is.
    """
    found = _of(committed)
    ours = state is not None and passphrase is not None and passphrase.own_file is not None
    # Written by a `pulumi` that was run by hand, and good in the one clone whose passphrase it was.
    ignored = ours and not any_encrypted and _is_salt(found)
    if found and not ignored:
        return Encryption(found)
    if state is not None and not state.exists():
        return Encryption({}, ignored)  # nothing is encrypted yet
    if state is not None and (salt := salt_of_state(state)):
        return Encryption({"encryptionsalt": salt}, ignored)
    found = _of(kept)
    # The passphrase has changed since. The state has a salt of its own, which says whether it is right.
    if passphrase is not None and _is_salt(found) and not passphrase.fits(found["encryptionsalt"]):
        found = {}
    return Encryption(found, ignored)


def ignored(file: str) -> str:
    """Return the notice of a committed salt that is no use."""
    return (
        f"{file}: encryptionsalt is ignored: nothing in the file is encrypted, and this checkout's own state "
        f"has a passphrase of its own; remove the line, see {DOCS}"
    )


def explained(
    problem: str,
    *,
    what: str,
    file: str,
    committed_salt: str | None,
    encrypted: Sequence[str],
    backend: str,
    passphrase: Passphrase | None,
) -> str:
    """Return the engine's words, or, of a passphrase, which file it does not fit and what to do.

    Args:
        what: The stack.
        file: The committed file.
        encrypted: Keys in it.
    """
    if "passphrase must be set" in problem:
        return (
            f"{what}: the passphrase is missing that encrypts its secrets in {backend}; allowed: "
            f"{PASSPHRASE} or {PASSPHRASE_FILE} of the environment, or a secretsprovider in {file}, "
            f"see {DOCS}"
        )
    if "incorrect passphrase" not in problem or passphrase is None:
        return problem
    used = f"{what}: the passphrase ({passphrase.origin}) does not fit"
    if committed_salt and not passphrase.fits(committed_salt):
        keys = f", with which {', '.join(encrypted)} is encrypted" if encrypted else ""
        return (
            f"{used} encryptionsalt in {file}{keys}; allowed: the passphrase that it was made with, "
            f"as {PASSPHRASE} or {PASSPHRASE_FILE}. If nobody has it, remove encryptionsalt"
            f"{' and what is encrypted' if encrypted else ''} from the file, see {DOCS}"
        )
    return (
        f"{used} the state in {backend}; allowed: the passphrase of the first `make up` there, "
        f"as {PASSPHRASE} or {PASSPHRASE_FILE}, see {DOCS}"
    )


def salt_of_state(file: Path) -> str | None:
    """The salt that a state in files was encrypted with, if it was with a passphrase."""
    try:
        found = json.loads(file.read_text())["checkpoint"]["latest"]["secrets_providers"]
        return found["state"]["salt"] if found["type"] == "passphrase" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of(settings: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(settings[key]) for key in KEYS if settings.get(key)}


def _is_salt(found: Mapping[str, str]) -> bool:
    """Return True for a passphrase's salt without another secrets provider's key."""
    return "encryptionsalt" in found and found.get("secretsprovider") in (None, "passphrase")


def _of_the_environment() -> Passphrase | None:
    """The user's. The engine looks at the variable before the file."""
    if PASSPHRASE in os.environ:
        return Passphrase(os.environ[PASSPHRASE], f"{PASSPHRASE} of the environment")
    if file := os.environ.get(PASSPHRASE_FILE):
        with contextlib.suppress(OSError, UnicodeDecodeError):  # the engine says so
            return Passphrase(Path(file).read_text().strip(), f"{file}, of {PASSPHRASE_FILE}")
    return None


def _own(file: Path) -> Passphrase | None:
    try:
        return Passphrase(file.read_text().strip(), f"this checkout's own, {file}", file)
    except OSError:
        return None


def _generate(file: Path) -> None:
    """Make the passphrase of this checkout's own state, once; nobody is asked for it."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_urlsafe(32))
    # link, not rename: of two runs that begin together the first one's key must stay.
    with contextlib.suppress(FileExistsError):
        os.link(new, file)
    new.unlink()
