"""Where applications answer, read from what Serve's controller says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.routing import APIRoute

from services.addresses import HEALTH, ROUTES, addresses_of
from services.gateway.app import create_app
from services.settings import GatewaySettings


def details(
    host: str = "127.0.0.1", args: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    gateway = {
        "route_prefix": "/",
        "deployed_app_config": {"import_path": "services.gateway:build", "args": args or {}},
    }
    return {
        "http_options": {"host": host, "port": 8123, "root_path": ""},
        "proxies": {"n1": {"node_ip": "10.0.0.7"}},
        "applications": {
            "verifier": {"route_prefix": None, "deployed_app_config": None},
            "gateway": gateway,
            "other": {"route_prefix": "/other"},
        },
        **changes,
    }


def test_a_gateway_has_routes_a_health_url_and_a_call() -> None:
    (gateway,) = addresses_of(details(args={"token_variable": "TOKEN"}), ["gateway", "absent"])
    assert gateway.url == "http://127.0.0.1:8123"
    assert gateway.health == "http://127.0.0.1:8123/healthz"
    assert gateway.routes == (
        "/v1/decompose",
        "/v1/verify",
        "/v1/verify/pixels",
        "/v1/score",
        "/v1/info",
    )
    assert gateway.token_variable == "TOKEN"
    assert gateway.call.startswith(
        'curl http://127.0.0.1:8123/v1/decompose -H "Authorization: Bearer $TOKEN" -H '
    )
    assert gateway.handle == 'ray.serve.get_app_handle("gateway")'


def test_a_gateway_without_a_token_is_called_without_one_and_may_draw() -> None:
    (gateway,) = addresses_of(details(args={"generator_app": "generator"}), ["gateway"])
    assert "/v1/generate" in gateway.routes
    assert "Authorization" not in gateway.call


def test_what_has_no_route_is_reached_by_handle() -> None:
    verifier, other = addresses_of(details(), ["verifier", "other"])
    assert (verifier.url, verifier.routes, verifier.call) == ("", (), "")
    assert other.url == "http://127.0.0.1:8123/other"
    (gateway,) = addresses_of(details(proxies={}), ["gateway"])
    assert gateway.url == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_proxy_that_listens_everywhere_is_named_by_its_node(host: str) -> None:
    (gateway,) = addresses_of(details(host=host), ["gateway"])
    assert gateway.url == "http://10.0.0.7:8123"


def test_the_routes_are_the_gateways() -> None:
    app = create_app(object(), object(), GatewaySettings())  # type: ignore[arg-type]
    paths = {route.path for route in app.routes if isinstance(route, APIRoute)}
    assert paths == {*ROUTES, HEALTH}
