"""What drawing and learning hold beside weights: what was read, and the space they work in.

Estimates in bytes, from the model's shape and the run's settings. Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from alphagrpo.config import RunConfig
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.loads import Load, drawn_loads, learnt_loads

FLOAT_BYTES = 4
DECODED_AT_ONCE = 4
"""Pictures that the autoencoder decodes at a time: 14 at once took 14 GB for a quarter of a second
at 512 x 512, four take less than the denoising before them.
"""
LOGIT_COPIES = 12
"""Matrices of a batch's logits while an id is picked: probabilities, sorted ones with their ids in
int64, running sums, and what is compared.
"""
SCRATCH_COLUMNS = 4096
"""Columns of the vocabulary for which a text backward makes logits again at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """How drawing and replay handle what they hold. The defaults are the code as it is; others are
    what it was when it was measured.
    """

    decoded_at_once: int = DECODED_AT_ONCE
    lowered_adapters: bool = True
    """Whether adapters are kept in the type of the weights too, converted once per version."""
    read_beside_pack: bool = False
    """Whether a replay keeps what each sample has read beside the pack that holds it too."""


AS_IT_IS = Handling()
"""The code of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingSpace:
    """Bytes beside the weights of a process that draws, at the peak of each of its parts."""

    context: int
    """Keys and values of what each sequence has read, once and once more per packed branch."""
    thinking: int
    denoising: int
    decoding: int

    @property
    def peak(self) -> int:
        """The largest."""
        return max(self.thinking, self.denoising, self.decoding)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSpace:
    """Bytes beside weights, gradients and moments of a process that learns, at the peak of one
    window step, or of the thoughts where these need more.
    """

    context: int
    activations: int
    """Of all sequences and branches, forward and back."""

    @property
    def peak(self) -> int:
        """Both."""
        return self.context + self.activations


class Working:
    """The spaces of one run, whose weights have values of ``width`` bytes."""

    def __init__(self, config: RunConfig, shape: PolicyShape, width: int) -> None:
        self._config, self._shape, self._width = config, shape, width
        self._token = shape.kv_values_per_token * width
        self._query = tokens_per_image(config, shape) + 2

    def drawing(self, handling: Handling = AS_IT_IS) -> DrawingSpace:
        """The most that any of the run's drawings takes."""
        found = [self._drawing(load, handling) for load in drawn_loads(self._config, self._shape)]
        return DrawingSpace(
            **{
                name: max(getattr(space, name) for space in found)
                for name in DrawingSpace.__dataclass_fields__
            }
        )

    def learning(self, recomputed: int, handling: Handling = AS_IT_IS) -> LearningSpace:
        """The most that a replay takes, where so many layers are recomputed."""
        loads = learnt_loads(self._config, self._shape)
        found = [
            space
            for load in loads
            for space in (
                self._pictures(load, recomputed, handling),
                self._thoughts(load, recomputed),
            )
        ]
        return max(found, key=lambda space: space.peak)

    def _drawing(self, load: Load, handling: Handling) -> DrawingSpace:
        task, shape = self._config.task, self._shape
        read = self._read(load)
        packed = read + self._packed(load)
        forward = shape.forward_values(load.samples * load.branches, self._query, load.length)
        pictures = min(load.samples, handling.decoded_at_once)
        # The cache of one token more is there beside the one before it.
        cached = 2 * load.samples * load.length * self._token
        logits = LOGIT_COPIES * load.samples * shape.vocabulary * FLOAT_BYTES
        return DrawingSpace(
            context=packed,
            thinking=read + cached + logits if load.thought else 0,
            denoising=packed + forward * self._width,
            # The pack may still be there, as it was where this was measured.
            decoding=packed + shape.decoded_bytes(pictures, task.height, task.width),
        )

    def _pictures(self, load: Load, recomputed: int, handling: Handling) -> LearningSpace:
        sequences = load.samples * load.branches
        values = self._shape.replay_values(
            sequences, self._query, load.length, recomputed=recomputed
        )
        beside = handling.read_beside_pack or load.branches == 1
        own = self._read(load) if beside else self._prefixes(load)
        return LearningSpace(context=own + self._packed(load), activations=values * self._width)

    def _thoughts(self, load: Load, recomputed: int) -> LearningSpace:
        if not load.thought:
            return LearningSpace(context=0, activations=0)
        tokens = load.thought + 2
        values = self._shape.replay_values(load.samples, tokens, load.prefix, recomputed=recomputed)
        columns = min(SCRATCH_COLUMNS, self._shape.vocabulary)
        scratch = load.samples * tokens * columns * FLOAT_BYTES
        return LearningSpace(context=self._read(load), activations=values * self._width + scratch)

    def _read(self, load: Load) -> int:
        """What each sequence has read when it draws, and what that went on from."""
        return load.samples * load.length * self._token + self._prefixes(load)

    def _prefixes(self, load: Load) -> int:
        """With pictures of their own sequences share no prefix: with and without their text."""
        return 2 * load.samples * load.prefix * self._token if load.own_pictures else 0

    def _packed(self, load: Load) -> int:
        return load.samples * load.length * load.branches * self._token * (load.branches > 1)


def tokens_per_image(config: RunConfig, shape: PolicyShape) -> int:
    """Image tokens of one of the run's pictures."""
    side = shape.pixels_per_token
    return (config.task.height // side) * (config.task.width // side)
