"""Trainable parameters as flat bytes: what the learner publishes and runners apply.

Bytes rather than tensors: numpy views cross Ray's object store without a copy and arrive
read-only, so that no runner can change another runner's weights by accident.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor, nn

from alphagrpo.errors import WeightsError
from alphagrpo.types import WeightsKind, WeightsManifest

CHUNK_BYTES = 256 * 2**20
"""Largest piece put into the object store at once: bounds its memory and overlaps transfers."""

Chunk = NDArray[np.uint8]


def flatten(
    parameters: Mapping[str, Tensor],
    *,
    version: int,
    kind: WeightsKind = "full",
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[WeightsManifest, tuple[Chunk, ...]]:
    """Copy ``parameters`` into read-only chunks of at most ``chunk_bytes``.

    Tensors follow one another without gaps, in the mapping's order and their own dtype; one may
    straddle chunks. The manifest's checksum is the BLAKE3 of all bytes in order.
    """
    sizes = [tensor.numel() * tensor.element_size() for tensor in parameters.values()]
    offsets = tuple(accumulate(sizes, initial=0))
    total = offsets[-1]
    chunks = [
        np.empty(min(chunk_bytes, total - start), np.uint8)
        for start in range(0, total, chunk_bytes)
    ]
    for tensor, start in zip(parameters.values(), offsets, strict=False):
        flat = tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy()
        for piece, chunk, at in _pieces(start, flat.size, chunks, chunk_bytes):
            chunk[at : at + piece.stop - piece.start] = flat[piece]
    for chunk in chunks:
        chunk.setflags(write=False)
    manifest = WeightsManifest(
        version=version,
        checksum=checksum(chunks),
        names=tuple(parameters),
        shapes=tuple(tuple(tensor.shape) for tensor in parameters.values()),
        dtypes=tuple(_name(tensor.dtype) for tensor in parameters.values()),
        offsets=offsets[:-1],
        nbytes=total,
        kind=kind,
    )
    return manifest, tuple(chunks)


def apply(
    parameters: Mapping[str, Tensor], manifest: WeightsManifest, chunks: Sequence[Chunk]
) -> None:
    """Copy published bytes into ``parameters``: all of them, or none.

    Length, checksum, names, shapes and dtypes are checked before the first parameter changes.

    Raises:
        WeightsError: where any of them is not what the manifest or this model says.
    """
    _check_layout(parameters, manifest)
    arrived = sum(chunk.nbytes for chunk in chunks)
    if arrived != manifest.nbytes:
        raise WeightsError(
            f"weights {manifest.version} must have {manifest.nbytes} bytes, got {arrived}; "
            "fetch them again"
        )
    if (got := checksum(chunks)) != manifest.checksum:
        raise WeightsError(
            f"weights {manifest.version} must have checksum {manifest.checksum[:12]}, "
            f"got {got[:12]}; fetch them again"
        )
    chunk_bytes = chunks[0].nbytes if chunks else CHUNK_BYTES
    with torch.no_grad():
        for name, start in zip(manifest.names, manifest.offsets, strict=True):
            parameter = parameters[name]
            own = _bytes_of(parameter)
            flat = np.empty(parameter.nbytes, np.uint8) if own is None else own
            for piece, chunk, at in _pieces(start, flat.size, chunks, chunk_bytes):
                flat[piece] = chunk[at : at + piece.stop - piece.start]
            if own is None:
                parameter.copy_(torch.from_numpy(flat).view(parameter.dtype).view(parameter.shape))


def checksum(chunks: Sequence[Chunk]) -> str:
    """BLAKE3 over all chunks in order, hex; the same however the bytes are cut.

    A tree of hashes, which several cores share: at both ends SHA-256 was most of what moving
    weights took.
    """
    digest = blake3(max_threads=blake3.AUTO)
    for chunk in chunks:
        digest.update(chunk.data)
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """BLAKE3 over the names and bytes of all parameters and buffers, hex."""
    digest = blake3(max_threads=blake3.AUTO)
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _bytes_of(parameter: Tensor) -> Chunk | None:
    """The memory of a parameter itself; None where it is on another device or not in one piece."""
    if parameter.device.type != "cpu" or not parameter.is_contiguous():
        return None
    return parameter.detach().reshape(-1).view(torch.uint8).numpy()


def _pieces(
    start: int, size: int, chunks: Sequence[Chunk], chunk_bytes: int
) -> list[tuple[slice, Chunk, int]]:
    """Where bytes ``start .. start + size`` lie: slice of the tensor, chunk, place in it."""
    pieces, done = [], 0
    while done < size:
        index, at = divmod(start + done, chunk_bytes)
        length = min(size - done, chunk_bytes - at)
        pieces.append((slice(done, done + length), chunks[index], at))
        done += length
    return pieces


def _check_layout(parameters: Mapping[str, Tensor], manifest: WeightsManifest) -> None:
    described = dict(
        zip(manifest.names, zip(manifest.shapes, manifest.dtypes, strict=True), strict=True)
    )
    own = {name: (tuple(t.shape), _name(t.dtype)) for name, t in parameters.items()}
    if described != own:
        names = sorted(
            name for name in described.keys() | own.keys() if described.get(name) != own.get(name)
        )
        first = names[0]
        raise WeightsError(
            f"published weights must fit this model's trainable parameters, {len(names)} do not: "
            f"{first} is {described.get(first)} there and {own.get(first)} here; "
            "give learner and runners the same model section"
        )
    sizes = (
        math.prod(shape) * getattr(torch, dtype).itemsize
        for shape, dtype in zip(manifest.shapes, manifest.dtypes, strict=True)
    )
    if tuple(accumulate(sizes, initial=0)) != (*manifest.offsets, manifest.nbytes):
        raise WeightsError(
            f"the offsets of weights {manifest.version} must follow from their shapes, "
            "they do not; publish them again"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
