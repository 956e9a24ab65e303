"""A model's decoder layers in shards, a share of every tensor's rows on each rank (FSDP2).

Where the experts train, weights, masters and moments of all layers do not fit on one device. Each
rank keeps a float32 share of the rows of every tensor: the shares are the masters, and there are no
others. A layer's weights are gathered in the model's type before each pass through it and freed
after it, so that at most two layers are whole at a time; replay computes with the numbers of the
unsharded model, and so gives its bits. Embeddings, heads, vision transformer and autoencoder do not
train and stay whole on every rank.

Who must keep step with whom
----------------------------

Gathering is a collective of all ranks, and so is the sum of a layer's gradients over the ranks,
which each backward ends with and which leaves every rank the sum of its own rows. Therefore, from
the first replay of a step to its last:

* All ranks go through the same number of passes, with and without gradient, in one order, and the
  same weights get a gradient in the same backward: FSDP2 exchanges those that have one, and a text
  backward reaches the understanding expert alone. What decides this is the *form* of what is
  replayed (:func:`form_of`): task, whether it thinks, rounds, steps of the window. Lengths, sizes
  and contents do not matter.
* So ranks replay in rounds of parts of one form (:class:`alphagrpo.learner.rounds.Rounds`), and
  a rank without a part of its own replays another with its loss times 0. :meth:`Shards.keep_step`
  begins a round: it compares the forms, since ranks that differ would wait for each other until the
  group's deadline, or add up the wrong gradients.
* Norm, checkpoint, publication and :meth:`Shards.keep_step` are collectives as well: every rank
  calls them, at the same place.
* An error that only one rank has leaves the others waiting until the deadline that the process
  group was made with. Look through all groups of a step before its first replay
  (:mod:`alphagrpo.learner.checks`) and let all ranks know the outcome.
* Nothing else may run the sharded model, no drawing for example, unless all ranks do so together.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alphagrpo.errors import PolicyDataError
from alphagrpo.policy.family import FAMILY
from alphagrpo.types import Group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Form = tuple[str, int, int, int]
"""Task, thoughts, pictures and trained steps of a picture, of one sample."""


def form_of(group: Group) -> Form:
    """What decides which passes the replay of ``group`` takes."""
    first = group.trajectories[0]
    steps = len(first.images[0].log_probs) if first.images else 0
    return (group.job.task, len(first.texts), len(first.images), steps)


@dataclass(frozen=True, slots=True)
class Shards:
    """The ranks that hold a model's layers between them; see :func:`shard_layers`."""

    group: ProcessGroup
    device: torch.device
    dtype: torch.dtype
    """Of the model, in which its layers compute; the shares are float32."""

    @property
    def rank(self) -> int:
        """Own number among the ranks."""
        return self.group.rank()

    @property
    def ranks(self) -> int:
        """How many hold a share."""
        return self.group.size()

    def rows(self, count: int, rank: int | None = None) -> tuple[int, int]:
        """Which of ``count`` rows a rank (default: this one) holds, from the first to below the
        second; none where the two are equal.
        """
        share = -(-count // self.ranks)
        rank = self.rank if rank is None else rank
        return min(rank * share, count), min((rank + 1) * share, count)

    def keep_step(self, form: Form) -> None:
        """Begin a round: all ranks call it with the form of what they replay in it.

        Raises:
            PolicyDataError: on every rank, where the forms are not all one.
        """
        digest = int.from_bytes(hashlib.sha256(repr(form).encode()).digest()[:7], "big")
        # The largest of x and of -x: one exchange that shows whether all are equal.
        ends = torch.tensor([digest, -digest], device=self.device)
        dist.all_reduce(ends, dist.ReduceOp.MAX, self.group)
        if int(ends[0]) != -int(ends[1]):
            raise PolicyDataError(
                f"all ranks must replay groups of one form in a round, rank {self.rank} has {form} "
                "and others do not; give all ranks one config and deal rounds by form"
            )

    def norm(self, own: Tensor) -> Tensor:
        """The norm of all shares together, of the norm of this rank's."""
        total = own.double().square()
        dist.all_reduce(total, group=self.group)
        return total.sqrt().to(own.dtype)

    def gathered(self, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The parameters whole, one after another, in the model's type; all ranks go through them.

        The next one is gathered when it is asked for, so that a rank which lets go of each before
        the next holds one at a time.
        """
        for name, parameter in parameters.items():
            shard: Any = parameter.detach()
            yield name, shard.to(self.dtype).full_tensor()

    def exchange(self, own: Sequence[int]) -> list[list[int]]:
        """As many whole numbers from every rank, in order of ranks; all ranks call it."""
        table = torch.zeros(self.ranks, len(own), dtype=torch.int64, device=self.device)
        table[self.rank] = torch.tensor(own, dtype=torch.int64)
        dist.all_reduce(table, group=self.group)
        return table.tolist()

    def barrier(self) -> None:
        """Wait for all ranks, whatever the backend."""
        here = torch.zeros((), device=self.device)
        dist.all_reduce(here, group=self.group)
        here.item()


def shard_layers(model: nn.Module, group: ProcessGroup | None = None) -> Shards:
    """Shard the decoder layers of a loaded ``model`` over the ranks of ``group``, in place.

    Every rank calls this once, with equal weights, before it takes hold of the parameters: those of
    the layers are then DTensors in float32, under their old names. Layers are converted and cut one
    by one, so that beside the model there is never more than one whole layer in float32.

    Args:
        model: as loaded, on this rank's device.
        group: default: all processes of ``torch.distributed``, which must have been started.
    """
    # Half a second of imports, which only ranks that shard need.
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    group = dist.group.WORLD if group is None else group
    assert group is not None, "torch.distributed must be initialised"
    decoder, layers = FAMILY.decoder_layers(model)
    first = next(layers[0].parameters())
    device, dtype = first.device, first.dtype
    mesh = DeviceMesh.from_group(group, device.type)
    # Inputs are not converted: the decoder's own types are those of the unsharded model.
    policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    # Keys and values leave a layer as views. Nothing changes them in place, of which this warns.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    sharded: list[Any] = [
        fully_shard(layer.float(), mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        for layer in layers
    ]
    for index, layer in enumerate(sharded):
        # Summed, not averaged: by a plain sum, since gloo knows no other.
        layer.set_gradient_divide_factor(1.0)
        layer.set_force_sum_reduction_for_comms(True)
        # By default the order of all forwards since the last backward decides what is gathered
        # ahead, those without gradient too: one layer too many in each backward. The first layer
        # names itself, for which nothing is done.
        layer.set_modules_to_backward_prefetch([sharded[max(index - 1, 0)]])
    # The root, so that layers share streams and are gathered ahead; all it holds itself is frozen.
    shares = {parameter for layer in layers for parameter in layer.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()) - shares)
    return Shards(group, device, dtype)
