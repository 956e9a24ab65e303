"""Trainable parameters as flat bytes: what the learner publishes and runners apply.

Bytes rather than tensors: numpy views cross Ray's object store without a copy and arrive
read-only, so that no runner can change another runner's weights by accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

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
    straddle chunks. Each has a BLAKE3 checksum, and the manifest one over these.
    """
    chunks: list[Chunk] = []
    packer = Packer(chunks.append, chunk_bytes)
    for name, tensor in parameters.items():
        packer.add(name, tensor)
    return packer.close(version=version, kind=kind), tuple(chunks)


class _Packed(NamedTuple):
    """What the manifest says of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    checksum: str


class Packer:
    """Copies tensors one after another into chunks, each of which it hands on when it is full.

    For a model that is nowhere whole: of the tensors it holds none, of the chunks one.

    Example::

        packer = Packer(chunks.append)
        for name, tensor in tensors:
            packer.add(name, tensor)
        manifest = packer.close(version=3)
    """

    def __init__(self, emit: Callable[[Chunk], object], chunk_bytes: int = CHUNK_BYTES) -> None:
        self._emit, self._chunk_bytes = emit, chunk_bytes
        self._chunk, self._filled, self._nbytes = np.empty(0, np.uint8), 0, 0
        self._tensors: list[_Packed] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Copy the bytes of the next tensor, on any device."""
        flat = tensor.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy()
        digest = checksum([flat])
        self._tensors.append(
            _Packed(name, tuple(tensor.shape), _name(tensor.dtype), self._nbytes, digest)
        )
        self._nbytes += flat.size
        done = 0
        while done < flat.size:
            if self._filled == self._chunk.size:
                self._hand_on()
                self._chunk, self._filled = np.empty(self._chunk_bytes, np.uint8), 0
            length = min(flat.size - done, self._chunk_bytes - self._filled)
            self._chunk[self._filled : self._filled + length] = flat[done : done + length]
            self._filled, done = self._filled + length, done + length

    def close(self, *, version: int, kind: WeightsKind = "full") -> WeightsManifest:
        """Hand on the last chunk; returns what they all hold."""
        self._hand_on()
        checksums = tuple(tensor.checksum for tensor in self._tensors)
        return WeightsManifest(
            version=version,
            checksum=_of_all(checksums),
            names=tuple(tensor.name for tensor in self._tensors),
            shapes=tuple(tensor.shape for tensor in self._tensors),
            dtypes=tuple(tensor.dtype for tensor in self._tensors),
            offsets=tuple(tensor.offset for tensor in self._tensors),
            nbytes=self._nbytes,
            kind=kind,
            checksums=checksums,
        )

    def _hand_on(self) -> None:
        if self._filled:
            chunk = self._chunk[: self._filled]
            chunk.setflags(write=False)
            self._emit(chunk)
        self._chunk, self._filled = np.empty(0, np.uint8), 0


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
    found = _checksums(manifest, chunks)
    if (got := _of_all(found)) != manifest.checksum:
        raise WeightsError(
            f"weights {manifest.version} must have checksum {manifest.checksum[:12]}, "
            f"got {got[:12]}{_broken(manifest, found)}; fetch them again"
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
            else:
                # What keeps something made of it asks torch whether it changed.
                torch.autograd.graph.increment_version(parameter)


def checksum(pieces: Sequence[Chunk]) -> str:
    """BLAKE3 over bytes in order, hex; the same however they are cut.

    A tree of hashes, which several cores share: at both ends SHA-256 was most of what moving
    weights took.
    """
    digest = blake3(max_threads=blake3.AUTO)
    for piece in pieces:
        digest.update(piece.data)
    return digest.hexdigest()


def _of_all(checksums: Sequence[str]) -> str:
    """One checksum of those of all tensors, so that no byte is hashed twice."""
    return blake3("".join(checksums).encode()).hexdigest()


def _checksums(manifest: WeightsManifest, chunks: Sequence[Chunk]) -> list[str]:
    """Of each tensor that the manifest names, as it arrived."""
    ends = (*manifest.offsets, manifest.nbytes)[1:]
    found = []
    for start, end in zip(manifest.offsets, ends, strict=True):
        pieces = _pieces(start, end - start, chunks, chunks[0].nbytes)
        found.append(checksum([chunk[at : at + p.stop - p.start] for p, chunk, at in pieces]))
    return found


def _broken(manifest: WeightsManifest, found: Sequence[str]) -> str:
    """Which tensors are to blame for a wrong checksum, for the message."""
    sums = zip(manifest.names, manifest.checksums, found, strict=False)
    broken = [name for name, expected, got in sums if expected != got]
    more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    return f" ({broken[0]}{more} broken)" if broken else ""


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
