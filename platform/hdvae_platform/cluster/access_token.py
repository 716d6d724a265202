"""The token of the Ray that is started on this machine. Who can read it can run code as this user."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from tempfile import NamedTemporaryFile

from hdvae.errors import InputError, reason_of
from hdvae_platform.store.private_folder import others_can_read

_VALUE, _PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Where Ray looks for the token first; then in `~/.ray/auth_token`."""


def ensure_token() -> None:
    """Make Ray's token if there is none, in a file that nobody else can read; Ray would make one that all can read.

    Raises:
        InputError: other users of this machine can read the token, or it cannot be written.
    """
    if os.environ.get(_VALUE):
        return
    path = Path(os.environ.get(_PATH) or Path("~/.ray/auth_token").expanduser())
    if path.exists():
        _check(path)
    elif not os.environ.get(_PATH):
        try:
            _make(path)
        except OSError as fault:
            raise InputError(
                f"{path}: Ray's token cannot be written: {reason_of(fault)}; set {_PATH} to a file that only you can "
                "read, with 32 or more random letters"
            ) from None


def _check(path: Path) -> None:
    if others_can_read(path):
        raise InputError(
            f"{path}: other users of this machine can read Ray's token, and run code as you with it: run "
            f"`chmod 600 {path}`; if you do not trust them, delete it instead, and a new one is made"
        )


def _make(path: Path) -> None:
    """Write a new token at once, so that a process that starts meanwhile reads all of it or none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=path.parent, prefix=".auth_token-") as file:  # only its owner can read it
        file.write(secrets.token_hex(32))
        file.flush()
        try:
            os.link(file.name, path)
        except FileExistsError:
            _check(path)
