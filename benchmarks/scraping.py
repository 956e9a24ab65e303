"""Reading what Ray's exporter shows: the series of a node, as Prometheus would scrape them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from time import monotonic, sleep

import httpx

PREFIXES = ("ray_alphagrpo_", "ray_vllm_")
_OWN = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_RAYS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name and its labels, without those that Ray adds to every series."""


def parse(text: str, prefixes: Iterable[str] = PREFIXES) -> dict[Series, float]:
    """The series of an exposition whose names begin with one of ``prefixes``.

    Series that differ in Ray's own labels alone, as those of two processes, are one here.
    """
    found: dict[Series, float] = {}
    for line in text.splitlines():
        match = _OWN.match(line)
        if match and match["name"].startswith(tuple(prefixes)):
            labels = _LABEL.findall(match["labels"] or "")
            kept = [(k, v) for k, v in labels if k not in _RAYS and not k.startswith("otel_")]
            found[match["name"], tuple(sorted(kept))] = float(match["value"])
    return found


def metrics_url() -> str:
    """Of the first node of the connected cluster."""
    import ray

    node = ray.nodes()[0]
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def scrape(url: str) -> dict[Series, float]:
    """What Prometheus would be given now."""
    response = httpx.get(url, timeout=30.0)
    response.raise_for_status()
    return parse(response.text)


def scrape_until(
    url: str, enough: Callable[[dict[Series, float]], bool], timeout_s: float
) -> dict[Series, float]:
    """The first scrape that has enough, or the last before the time is up."""
    until = monotonic() + timeout_s
    while True:
        try:
            series = scrape(url)
        except httpx.HTTPError:
            series = {}
        if enough(series) or monotonic() > until:
            return series
        sleep(1.0)
