"""What the ranks of a learner tell one another once per step: their sums of gradients."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alphagrpo.errors import LearnerLost
from alphagrpo.learner.gradients import Gradients

BUCKET_VALUES = 2**26
"""Largest number of float32 values summed at a time: bounds the copy that is sent."""
BACKLOG = 128
"""Connections that wait beside those of the ranks: torch makes several of each."""


class Exchange(Protocol):
    """One rank's line to the others."""

    def sum(self, gradients: Gradients | None, parameters: Sequence[nn.Parameter]) -> Gradients:
        """The sum over all ranks, the same bits on each; every rank must call it."""
        ...


class Alone:
    """:class:`Exchange` of a learner without others."""

    def sum(self, gradients: Gradients | None, parameters: Sequence[nn.Parameter]) -> Gradients:
        """Its own gradients."""
        return [None] * len(parameters) if gradients is None else gradients


class TorchExchange:
    """:class:`Exchange` over ``torch.distributed``: NCCL where parameters lie on GPUs, else gloo.

    A process has one such group at a time. Sums are taken bucket by bucket, in the order of the
    parameters, by an algorithm that the number of ranks decides: each run gives the same bits.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, deadline_s: float) -> None:
        """Join the group; returns once all ranks have.

        Raises:
            LearnerLost: where not all arrive within ``deadline_s``, now or in a sum.
        """
        self._rank, self._size, self._deadline_s = rank, size, deadline_s
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _in_time(f"rank {rank} of {size}", deadline_s):
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=deadline_s),
            )

    @torch.no_grad()
    def sum(self, gradients: Gradients | None, parameters: Sequence[nn.Parameter]) -> Gradients:
        """The sum over all ranks; None where no rank has a gradient."""
        own: Gradients = [None] * len(parameters) if gradients is None else gradients
        device = parameters[0].device
        with _in_time(f"rank {self._rank} of {self._size}", self._deadline_s):
            present = torch.tensor([float(g is not None) for g in own], device=device)
            dist.all_reduce(present)
            trained = [index for index, count in enumerate(present.tolist()) if count > 0]
            filled = {i: _filled(own[i], parameters[i]) for i in trained}
            for bucket in _buckets(trained, parameters):
                flat = torch.cat([filled[index].reshape(-1) for index in bucket])
                dist.all_reduce(flat)
                parts = flat.split([parameters[index].numel() for index in bucket])
                for index, part in zip(bucket, parts, strict=True):
                    filled[index].copy_(part.view_as(filled[index]))
        return [filled.get(index) for index in range(len(parameters))]


def open_store(host: str, size: int, deadline_s: float) -> dist.TCPStore:
    """Where ``size`` ranks find one another, served by this process on a free port of ``host``.

    Other addresses of this machine do not have it: left to itself torch listens on all of them.
    """
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family, backlog=size + BACKLOG) as server:
        port = server.getsockname()[1]
        return dist.TCPStore(
            host,
            port,
            size,
            is_master=True,
            timeout=timedelta(seconds=deadline_s),
            wait_for_workers=False,
            master_listen_fd=server.detach(),
        )


def find_store(host: str, port: int, size: int, deadline_s: float) -> dist.TCPStore:
    """The store that :func:`open_store` serves elsewhere."""
    timeout = timedelta(seconds=deadline_s)
    return dist.TCPStore(host, port, size, is_master=False, timeout=timeout)


@contextmanager
def _in_time(who: str, deadline_s: float) -> Iterator[None]:
    """Turns what torch.distributed raises about lost or late ranks into an error of ours."""
    try:
        yield
    except RuntimeError as error:
        raise LearnerLost(
            f"all ranks of the learner must meet within learner.deadline_s ({deadline_s:g} s), "
            f"{who} waited in vain: {error}; the ranks are started again from the last checkpoint"
        ) from error


def _filled(gradient: Tensor | None, parameter: nn.Parameter) -> Tensor:
    if gradient is not None:
        return gradient
    return torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)


def _buckets(indices: Sequence[int], parameters: Sequence[nn.Parameter]) -> list[list[int]]:
    """The indices cut into runs of at most :data:`BUCKET_VALUES` values, or one parameter."""
    buckets: list[list[int]] = []
    values = 0
    for index in indices:
        size = parameters[index].numel()
        if not buckets or values + size > BUCKET_VALUES:
            buckets.append([])
            values = 0
        buckets[-1].append(index)
        values += size
    return buckets
