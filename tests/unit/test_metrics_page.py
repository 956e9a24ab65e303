"""`docs/metrics.md` lists the metrics that the code makes, by names that Prometheus takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from actors import metrics as run_metrics
from services import metrics as service_metrics

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
RESERVED = ("_total", "_count", "_sum", "_bucket", "_info", "_created")

Row = tuple[str, str, str, str]
"""Name, kind, tags, meaning."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Every metric of a run and of the services."""
    rows: list[Row] = []

    def kind_of(kind: str) -> Any:
        class FakeMetric:
            def __init__(self, name: str, description: str, *args: Any, **named: Any) -> None:
                tag_keys = named.get("tag_keys") or args[-1]
                rows.append((name, kind, ", ".join(tag_keys), description))

            def _record(self, value: float, tags: dict[str, str]) -> None:
                pass

            set = _record

        return FakeMetric

    for module in (run_metrics, service_metrics):
        for kind in ("Counter", "Gauge", "Histogram"):
            if hasattr(module, kind):
                monkeypatch.setattr(module, kind, kind_of(kind.lower()))
    run_metrics.StepGauges("run")
    run_metrics.RunnerGauges("run", "rollout-0")
    for service in ("Verifier", "Decomposer", "Generator"):
        getattr(service_metrics, f"{service}Metrics")().close()
    service_metrics.GatewayMetrics(("team",)).close()
    return rows


def listed() -> list[Row]:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([\w, ]+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M
    )
    return [(name, kind, tags, meaning.replace("\\|", "|")) for name, kind, tags, meaning in rows]


def test_the_page_lists_what_the_code_makes(made: list[Row]) -> None:
    exported = [
        (f"ray_{name}{'_total' if kind == 'counter' else ''}", kind, tags, text)
        for name, kind, tags, text in made
    ]
    assert sorted(listed()) == sorted(exported)


def test_no_name_ends_in_what_prometheus_reserves(made: list[Row]) -> None:
    assert len(made) > 35
    assert [name for name, *_ in made if name.endswith(RESERVED)] == []
    assert len({name for name, *_ in made}) == len(made)
