"""Ray's dashboard, asked over HTTP as a laptop asks it: nodes, actors, jobs, Serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What the dashboard at ``url`` knows."""

    url: str
    token: str

    def job_status(self, name: str) -> str:
        """PENDING, RUNNING, FAILED, ..."""
        return str((self.ask(f"/api/jobs/{name}") or {}).get("status", "unknown"))

    def job_log(self, name: str) -> str:
        """What the driver printed so far."""
        return str((self.ask(f"/api/jobs/{name}/logs") or {}).get("logs", ""))

    def nodes(self) -> list[dict[str, Any]]:
        """Alive nodes; none while there is no answer."""
        return self.alive("nodes")

    def alive(self, what: str) -> list[dict[str, Any]]:
        """``actors`` or ``nodes`` as Ray's state API has them."""
        answer = self.ask(f"/api/v0/{what}", detail="True", limit="1000") or {}
        found = answer.get("data", {}).get("result", {}).get("result", [])
        return [entry for entry in found if entry["state"] == "ALIVE"]

    def places(self, *prefixes: str) -> dict[str, str]:
        """Pool of each living actor whose name begins so, by what tells it apart from others."""
        pools = {node["node_id"]: node["labels"].get("mesh.pool", "") for node in self.nodes()}
        return {
            short_name(actor["name"].removeprefix(prefix)): pools[actor["node_id"]]
            for actor in self.alive("actors")
            for prefix in prefixes
            if actor["name"].startswith(prefix)
        }

    def serve_status(self) -> dict[str, Any]:
        """Serve's applications by name."""
        return dict((self.ask("/api/serve/applications/") or {}).get("applications", {}))

    def ask(self, path: str, **parameters: str) -> Any:
        """What it answers; None while it answers nothing of use.

        Not by Ray's command line: to start it costs seconds of the cores that all nodes share.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            answer = httpx.get(self.url + path, params=parameters, headers=headers, timeout=30.0)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None


def short_name(name: str) -> str:
    """``verifier#Verifier#x1`` of a replica is ``Verifier``."""
    parts = name.split("#")
    return parts[1] if len(parts) > 1 else name
