"""The policy's family: all that rollout, learner and commands must know of its architecture.

This module and ``alphagrpo.models.bagel`` are the only ones that know a family's names, files and
sizes. Another family is another object with the members of :class:`PolicyFamily`, in the place of
:data:`FAMILY`. Free of torch until a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from alphagrpo.errors import ConfigError
from alphagrpo.models.bagel import layout
from alphagrpo.models.bagel.config import BagelConfig
from alphagrpo.models.bagel.sizes import BagelShape

if TYPE_CHECKING:
    import torch
    from torch import nn

    from alphagrpo.config.schema import TaskConfig
    from alphagrpo.models.bagel import Bagel
    from alphagrpo.models.unified import UnifiedModel


class PolicyShape(Protocol):
    """What checks and the arithmetic of memory and time ask of a model that is not loaded."""

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels one image token covers."""
        ...

    @property
    def max_tokens_per_side(self) -> int:
        """Rows and columns of image tokens a picture may have."""
        ...

    @property
    def latent_channels(self) -> int:
        """Values per image token."""
        ...

    @property
    def kv_values_per_token(self) -> int:
        """Values cached of one token."""
        ...

    def weights(self) -> Mapping[str, int]:
        """Numbers of weights by part, the fields of :class:`alphagrpo.policy.memory.ModelSize`."""
        ...

    def adapter_weights(self, rank: int) -> int:
        """Number of adapter weights at ``rank``."""
        ...

    @property
    def float32_weights(self) -> int:
        """Of :meth:`weights`, those that are in float32 whatever the type of the rest."""
        ...

    @property
    def vocabulary(self) -> int:
        """Ids that a token is sampled from."""
        ...

    def forward_values(self, sequences: int, tokens: int, past: int) -> int:
        """Values of the weights' type at the peak of a forward without gradient, of so many tokens
        of each sequence, which has read ``past`` before. Weights and what was read are not counted.
        """
        ...

    def replay_values(self, sequences: int, tokens: int, past: int, *, recomputed: int) -> int:
        """The same at the peak of a forward with gradient and its backward, where the first
        ``recomputed`` layers keep no activations.
        """
        ...

    def decoded_bytes(self, pictures: int, height: int, width: int) -> int:
        """Bytes at the peak of decoding so many pictures, of so many pixels, at once."""
        ...

    def picture_tokens(self, height: int, width: int) -> int:
        """Tokens of a picture of so many pixels that is read."""
        ...

    @property
    def num_layers(self) -> int:
        """Layers of the decoder, among which the experts' weights are split evenly."""
        ...

    def forward_flops(self, tokens: int, keys: float) -> float:
        """Floating-point operations of one forward of so many tokens, each of which sees ``keys``
        keys on average; a product and its addition are two. Without the text head.
        """
        ...


class PolicyFamily(Protocol):
    """One architecture: its checkpoints, its sizes, and the names of its parameters."""

    @property
    def released_name(self) -> str:
        """The released model whose shape is assumed where a checkpoint's folder is absent."""
        ...

    @property
    def tokenizer_file(self) -> str:
        """Name of the tokenizer's file in a checkpoint's folder."""
        ...

    def shape(self, folder: Path) -> PolicyShape:
        """Shape by a folder's config files; CheckpointError where they do not say what they must.

        Weights are not looked at.
        """
        ...

    def released_shape(self) -> PolicyShape:
        """Shape of the released model."""
        ...

    def check(self, folder: Path) -> PolicyShape:
        """As :meth:`shape`, and CheckpointError unless every file of weights is whole."""
        ...

    def load(self, folder: Path, *, dtype: torch.dtype, device: str) -> UnifiedModel:
        """The model with its weights; CheckpointError for a folder that is no whole checkpoint."""
        ...

    def takes_adapter(self, module: str) -> bool:
        """Whether the linear layer of this name is adapted where adapters train."""
        ...

    def is_expert_weight(self, parameter: str) -> bool:
        """Whether the parameter of this name trains where the experts train."""
        ...

    def of_generation_expert(self, parameter: str) -> bool:
        """Whether a parameter or adapter belongs to the expert that denoises pictures."""
        ...

    def decoder_layers(self, model: nn.Module) -> tuple[nn.Module, Sequence[nn.Module]]:
        """The decoder, and the layers it calls, in their order: they hold all expert weights.

        Where the experts train on several ranks, these are sharded, each as one.
        """
        ...


class BagelFamily:
    """BAGEL, in the official checkpoint layout."""

    released_name = "BAGEL-7B-MoT"
    tokenizer_file = "tokenizer.json"
    takes_adapter = staticmethod(layout.takes_adapter)
    is_expert_weight = staticmethod(layout.is_expert_weight)
    of_generation_expert = staticmethod(layout.of_generation_expert)

    def shape(self, folder: Path) -> BagelShape:
        """See :class:`PolicyFamily`, as for all members."""
        return BagelShape(BagelConfig.from_folder(folder))

    def released_shape(self) -> BagelShape:
        """Shape of BAGEL-7B-MoT."""
        return BagelShape.released()

    def check(self, folder: Path) -> BagelShape:
        """Shape of a folder whose files are whole."""
        return BagelShape(layout.check_files(folder))

    def load(self, folder: Path, *, dtype: torch.dtype, device: str) -> UnifiedModel:
        """Weights in ``dtype``; heads and autoencoder stay in float32."""
        from alphagrpo.models.bagel import load_bagel

        return load_bagel(folder, dtype=dtype, device=device)

    def decoder_layers(self, model: nn.Module) -> tuple[nn.Module, Sequence[nn.Module]]:
        """BAGEL's decoder and its two-expert layers."""
        decoder = cast("Bagel", model).language_model.model
        return decoder, list(decoder.layers)


FAMILY: PolicyFamily = BagelFamily()
"""The family of every run's policy."""


def check_picture_size(task: TaskConfig, shape: PolicyShape) -> None:
    """Raise ConfigError unless the run's pictures fit the model's token grid."""
    side, most = shape.pixels_per_token, shape.max_tokens_per_side
    for name, value in (("height", task.height), ("width", task.width)):
        if value % side or value // side > most:
            raise ConfigError(
                f"task.{name} must be a multiple of {side} pixels and at most {side * most} for "
                f"this model, got {value}; try {min(max(side, value // side * side), side * most)}"
            )
