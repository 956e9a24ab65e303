"""Published weights: exact on arrival, refused whole when anything is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from alphagrpo.errors import WeightsError
from alphagrpo.models import weights
from alphagrpo.types import WeightsKind


def make_parameters(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(3, 5, generator=generator),
        "b.bias": torch.randn(7, generator=generator).to(torch.bfloat16),
        "c.scale": torch.randn((), generator=generator),
        "d.weight": torch.randn(4, 2, generator=generator).t(),
    }


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 10_000])
def test_apply_restores_every_bit(chunk_bytes: int) -> None:
    source, target = make_parameters(0), make_parameters(1)
    manifest, chunks = weights.flatten(source, version=3, chunk_bytes=chunk_bytes)
    assert max(chunk.nbytes for chunk in chunks) <= chunk_bytes
    weights.apply(target, manifest, chunks)
    for name, tensor in source.items():
        assert torch.equal(tensor, target[name])
        assert target[name].dtype == tensor.dtype


def test_checksum_does_not_depend_on_the_cutting() -> None:
    manifests = {
        weights.flatten(make_parameters(0), version=0, chunk_bytes=size)[0].checksum
        for size in (5, 64, 999)
    }
    assert len(manifests) == 1


def test_chunks_are_read_only() -> None:
    _, chunks = weights.flatten(make_parameters(0), version=0)
    with pytest.raises(ValueError, match="read-only"):
        chunks[0][0] = 1


def refuse(target, manifest, chunks, match: str) -> None:
    before = {name: tensor.clone() for name, tensor in target.items()}
    with pytest.raises(WeightsError, match=match):
        weights.apply(target, manifest, chunks)
    assert all(torch.equal(before[name], target[name]) for name in target), "half applied"


def test_flipped_bit_is_refused_before_anything_changes() -> None:
    manifest, chunks = weights.flatten(make_parameters(0), version=0, chunk_bytes=32)
    broken = [np.array(chunk) for chunk in chunks]
    broken[-1][-1] ^= 1
    refuse(make_parameters(1), manifest, broken, r"checksum .*\(d\.weight broken\)")
    broken[0][0] ^= 1
    refuse(make_parameters(1), manifest, broken, r"\(a\.weight and 1 more broken\)")


def test_each_tensor_has_a_checksum_of_its_own() -> None:
    parameters = make_parameters(0)
    manifest, _ = weights.flatten(parameters, version=0, chunk_bytes=7)
    alone = [weights.flatten({n: t}, version=0)[1] for n, t in parameters.items()]
    assert manifest.checksums == tuple(weights.checksum(chunks) for chunks in alone)
    other = weights.flatten(parameters | {"a.weight": -parameters["a.weight"]}, version=0)[0]
    assert other.checksums[1:] == manifest.checksums[1:]
    assert other.checksum != manifest.checksum


def test_a_chunk_is_handed_on_as_soon_as_it_is_full() -> None:
    chunks: list[weights.Chunk] = []
    packer, counts = weights.Packer(chunks.append, 16), []
    for name, tensor in make_parameters(0).items():
        packer.add(name, tensor)
        counts.append(len(chunks))
    manifest = packer.close(version=0)
    assert counts == [3, 4, 4, 6], "60, 74, 78 and 110 bytes; a full one waits for the next byte"
    assert manifest == weights.flatten(make_parameters(0), version=0)[0]
    weights.apply(make_parameters(1), manifest, chunks)


def test_missing_chunk_is_refused() -> None:
    manifest, chunks = weights.flatten(make_parameters(0), version=0, chunk_bytes=32)
    refuse(make_parameters(1), manifest, chunks[:-1], "bytes")


def test_other_layout_is_refused() -> None:
    manifest, chunks = weights.flatten(make_parameters(0), version=0)
    renamed = {f"x.{name}": tensor for name, tensor in make_parameters(1).items()}
    refuse(renamed, manifest, chunks, "8 do not")
    wider = {name: tensor.float() for name, tensor in make_parameters(1).items()}
    refuse(wider, manifest, chunks, "b.bias")
    crooked = replace(manifest, offsets=(0, 1, *manifest.offsets[2:]))
    refuse(make_parameters(1), crooked, chunks, "offsets")


def test_chunks_are_cut_at_their_size_and_hold_all_bytes_in_order() -> None:
    source = make_parameters(0)
    manifest, chunks = weights.flatten(source, version=0, chunk_bytes=32)
    assert [chunk.nbytes for chunk in chunks[:-1]] == [32] * (len(chunks) - 1)
    assert 0 < chunks[-1].nbytes <= 32
    flat = b"".join(chunk.tobytes() for chunk in chunks)
    assert len(flat) == manifest.nbytes == 4 * 15 + 2 * 7 + 4 + 4 * 8
    assert manifest.offsets == (0, 60, 74, 78)
    assert flat[74:78] == source["c.scale"].numpy().tobytes()
    assert flat[78:] == source["d.weight"].contiguous().numpy().tobytes()


def test_exactly_full_chunks_leave_no_empty_one() -> None:
    parameters = {"a": torch.arange(8.0), "b": torch.arange(8.0)}
    _, chunks = weights.flatten(parameters, version=0, chunk_bytes=32)
    assert [chunk.nbytes for chunk in chunks] == [32, 32]


def test_no_parameters_are_published_and_applied_as_none() -> None:
    manifest, chunks = weights.flatten({}, version=4)
    assert (manifest.nbytes, chunks) == (0, ())
    weights.apply({}, manifest, chunks)


def test_swapped_chunks_are_refused() -> None:
    manifest, chunks = weights.flatten(make_parameters(0), version=0, chunk_bytes=22)
    assert chunks[0].nbytes == chunks[1].nbytes
    refuse(make_parameters(1), manifest, [chunks[1], chunks[0], *chunks[2:]], "checksum")


def test_another_shape_under_the_same_name_is_refused() -> None:
    manifest, chunks = weights.flatten(make_parameters(0), version=0)
    target = make_parameters(1)
    target["a.weight"] = target["a.weight"].t().contiguous()
    refuse(target, manifest, chunks, "1 do not: a.weight")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_manifest_says_what_it_holds(kind: WeightsKind) -> None:
    manifest, _ = weights.flatten(make_parameters(0), version=7, kind=kind)
    assert (manifest.version, manifest.kind) == (7, kind)
    assert manifest.dtypes == ("float32", "bfloat16", "float32", "float32")
    assert manifest.shapes == ((3, 5), (7,), (), (2, 4))
