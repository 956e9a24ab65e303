"""Which versions the registry keeps: the plain class, without an actor round it."""

from __future__ import annotations

import pytest

from actors import weights
from actors.weights import WeightRegistry
from alphagrpo.errors import WeightsError
from alphagrpo.types import WeightsManifest
from tests.fakes import make_config


def manifest(version: int, checksum: str = "") -> WeightsManifest:
    return WeightsManifest(
        version=version,
        checksum=checksum or f"sum of {version}",
        names=(),
        shapes=(),
        dtypes=(),
        offsets=(),
        nbytes=0,
    )


def published(registry: WeightRegistry, *versions: int) -> WeightRegistry:
    for version in versions:
        registry.put(manifest(version), [f"chunk of {version}"])
    return registry


def kept(registry: WeightRegistry) -> list[int]:
    return [version for version in range(20) if _has(registry, version)]


def _has(registry: WeightRegistry, version: int) -> bool:
    try:
        return registry.get(version)[1] == [f"chunk of {version}"]
    except WeightsError:
        return False


@pytest.mark.parametrize("number", [2, 3, 5])
def test_the_newest_versions_are_kept_and_no_more(number: int) -> None:
    registry = published(WeightRegistry(number), *range(8))
    assert kept(registry) == list(range(8 - number, 8))
    assert registry.newest() == manifest(7)


def test_a_runner_that_is_fetching_finds_the_version_before_the_newest() -> None:
    registry = published(WeightRegistry(2), 0, 1)
    assert registry.get(0) == (manifest(0), ["chunk of 0"])
    published(registry, 2)
    with pytest.raises(WeightsError, match=r"weights 0 are not published, there are \[1, 2\]"):
        registry.get(0)


def test_versions_of_a_learner_that_was_restored_from_an_earlier_one_go() -> None:
    registry = published(WeightRegistry(3), 0, 1, 2, 3)
    registry.put(manifest(2, "another sum"), ["another chunk"])
    assert registry.newest() == manifest(2, "another sum")
    assert registry.get(2)[1] == ["another chunk"]
    assert kept(registry) == [1]
    published(registry, 3)
    assert registry.newest() == manifest(3)


def test_before_the_first_publication_there_is_none() -> None:
    registry = WeightRegistry(2)
    assert registry.newest() is None
    with pytest.raises(WeightsError, match="ask for the newest"):
        registry.get(0)


@pytest.mark.parametrize("lag", [0, 3])
def test_with_lag_as_many_more_versions_are_kept(lag: int, monkeypatch) -> None:
    made: list[tuple[int, dict]] = []

    class Options:
        def options(self, **options):
            self.chosen = options
            return self

        def remote(self, number: int):
            made.append((number, self.chosen))

    monkeypatch.setattr(weights.ray, "remote", lambda actor: Options())
    # With a selector nobody has to be asked which node this is: no Ray runs here.
    selector = {"mesh.pool": "learner"}
    config = make_config(rollout={"max_lag": lag}, placement={"weights": selector})
    weights.start_registry(config)
    ((number, options),) = made
    assert number == 2 + lag
    assert (options["name"], options["num_cpus"]) == ("alphagrpo:fake:weights", 0)
    assert options["label_selector"] == selector
