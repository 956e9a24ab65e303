"""A gateway that strangers can reach asks for a token: Serve's HTTP knows none of its own."""

from __future__ import annotations

import ipaddress

from alphagrpo.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether what listens on ``host`` is reached from its own machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(asks_for_a_token: bool, host: str | None) -> None:
    """Raises ConfigError for a gateway without a token on another host than loopback.

    ``host``: where Serve's HTTP listens, empty for everywhere; None where it does not.
    """
    if host is None or asks_for_a_token or is_loopback(host):
        return
    raise ConfigError(
        "a gateway that listens on another host than loopback asks for a token, this one has no "
        f"token_variable and no callers, and http_options.host is {host!r} (0.0.0.0 where a Serve "
        "config says nothing); set token_variable, or http_options.host: 127.0.0.1"
    )


def listening_host() -> str | None:
    """Where the HTTP proxies of this cluster's Serve listen; None where there are none."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    details = client.get_serve_details()
    if details.get("proxy_location") == "Disabled":
        return None
    return str((details.get("http_options") or {}).get("host") or "")
