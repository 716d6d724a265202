"""Addresses at which a study can run; known without Ray."""

from __future__ import annotations

import ipaddress

from hdvae.errors import InputError

LOCAL = "local"
"""A Ray of the study's own on this machine."""
AUTO = "auto"
"""The cluster that this machine is part of."""


def check_address(address: str) -> None:
    """Check that an address says where a study is to run: `local`, `auto` or `HOST:PORT`.

    Raises:
        InputError: it does not; the message says what to give instead.
    """
    if address in (LOCAL, AUTO):
        return
    where = f"--address {address}"
    if address.startswith(("ray://", "http://", "https://")):
        host = address.partition("://")[2].partition(":")[0].partition("/")[0]
        raise InputError(
            f"{where}: a study's driver runs on a machine of the cluster; from elsewhere "
            f"`hdvae study submit FILE.yaml --address http://{host}:8265` starts it there"
        )
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"{where}: give local, auto or HOST:PORT, e.g. 10.0.0.1:6379")


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT can be reached only from this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
