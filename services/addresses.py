"""Where the applications of the connected cluster answer, and how they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GATEWAY = "services.gateway:build"
ROUTES = (
    "/v1/decompose",
    "/v1/verify",
    "/v1/verify/pixels",
    "/v1/score",
    "/v1/generate",
    "/v1/info",
)
HEALTH = "/healthz"
_ANY = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """How one application is reached."""

    application: str
    handle: str
    """Python that gives its handle, in a process of the cluster."""
    url: str = ""
    """Of its HTTP routes; empty where it has none."""
    routes: tuple[str, ...] = ()
    """What a gateway offers below ``url``."""
    health: str = ""
    """URL that answers 200 where the application and the services behind it are well."""
    token_variable: str = ""
    """Environment variable of the gateway's bearer token; empty where it asks for none."""

    @property
    def call(self) -> str:
        """A request with curl; empty for what is no gateway."""
        if not self.routes:
            return ""
        token = f' -H "Authorization: Bearer ${self.token_variable}"' if self.token_variable else ""
        return (
            f"curl {self.url}/v1/decompose{token} -H 'Content-Type: application/json' "
            """-d '{"prompt": "a red circle"}'"""
        )


def addresses(names: Iterable[str]) -> list[Address]:
    """Of the named applications that the connected cluster has."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return addresses_of(client.get_serve_details(), names) if client else []


def addresses_of(details: Mapping[str, Any], names: Iterable[str]) -> list[Address]:
    """As :func:`addresses`, of what Serve's controller says of itself."""
    base, apps = _base_url(details), details["applications"]
    return [_address(name, apps[name], base) for name in names if name in apps]


def _base_url(details: Mapping[str, Any]) -> str:
    """Of Serve's HTTP proxy; empty where there is none."""
    options, proxies = details.get("http_options") or {}, list(details["proxies"].values())
    if not proxies:
        return ""
    host = str(options.get("host") or "")
    # A proxy that listens everywhere is reached at its node.
    host = str(proxies[0].get("node_ip")) if host in _ANY else host
    return f"http://{host}:{options['port']}{options.get('root_path') or ''}"


def _address(name: str, app: Mapping[str, Any], base: str) -> Address:
    handle = f'ray.serve.get_app_handle("{name}")'
    prefix = app.get("route_prefix")
    if prefix is None or not base:
        return Address(application=name, handle=handle)
    url = base + str(prefix).rstrip("/")
    config = app.get("deployed_app_config") or {}
    if config.get("import_path") != GATEWAY:
        return Address(application=name, handle=handle, url=url)
    args = config.get("args") or {}
    return Address(
        application=name,
        handle=handle,
        url=url,
        routes=tuple(r for r in ROUTES if r != "/v1/generate" or args.get("generator_app")),
        health=url + HEALTH,
        token_variable=_token_variable(args),
    )


def _token_variable(args: Mapping[str, Any]) -> str:
    """Of the one token, or of the first caller's."""
    first = next(iter(args.get("callers") or ()), args)
    return str(first.get("token_variable") or "")
