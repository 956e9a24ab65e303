"""What drawing and learning hold beside weights: what was read, and the space they work in.

Estimates in bytes, from the model's shape and the run's settings. Free of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from alphagrpo.config import RunConfig
from alphagrpo.options import Thinking
from alphagrpo.policy.family import PolicyShape
from alphagrpo.policy.loads import Load, drawn_loads, learnt_loads

FLOAT_BYTES = 4
DECODED_AT_ONCE = 4
"""Pictures that the autoencoder decodes at a time: 14 at once took 14 GB for a quarter of a second
at 512 x 512, four take less than the denoising before them.
"""
BUCKET = 256
"""Places that a sampled token sees, and that a thought's buffers have, are a multiple of it: so
many graphs are captured, and masked places cost little beside the weights.
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
    static_buffers: bool = True
    """Whether thoughts are sampled in buffers that stay, on a GPU, or in a cache that is copied."""
    read_beside_pack: bool = False
    """Whether a replay keeps what each sample has read beside the pack that holds it too."""


AS_IT_IS = Handling()
"""The code of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawingSpace:
    """Bytes beside the weights of a process that draws, at the peak of each of its parts."""

    context: int
    """Keys and values of what each sequence has read, once and once more per packed branch."""
    buffers: int
    """Of these, thoughts' buffers, which stay when what was drawn with them is gone."""
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
        loads = drawn_loads(self._config, self._shape)
        kept = max(self._buffers(load, handling) for load in loads)
        found = [self._drawing(load, handling, kept) for load in loads]
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

    def _drawing(self, load: Load, handling: Handling, kept: int) -> DrawingSpace:
        """``kept``: buffers that another batch may have left."""
        task, shape = self._config.task, self._shape
        read = self._read(load)
        packed = read + self._packed(load)
        forward = shape.forward_values(load.samples * load.branches, self._query, load.length)
        pictures = min(load.samples, handling.decoded_at_once)
        # In a cache that is copied, the one of a token more is there beside the one before it.
        copied = 0 if kept else 2 * load.samples * load.length * self._token
        logits = LOGIT_COPIES * load.samples * shape.vocabulary * FLOAT_BYTES
        return DrawingSpace(
            context=packed,
            buffers=kept,
            thinking=read + kept + copied + logits if load.thought else 0,
            denoising=packed + kept + forward * self._width,
            # The pack may still be there, as it was where this was measured.
            decoding=packed + kept + shape.decoded_bytes(pictures, task.height, task.width),
        )

    def _buffers(self, load: Load, handling: Handling) -> int:
        """Of a batch's thoughts."""
        eager = samples_eagerly(self._config.rollout.thinking, self._config.model.device)
        if not load.thought or eager or not handling.static_buffers:
            return 0
        return load.samples * -(-load.length // BUCKET) * BUCKET * self._token

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


def samples_eagerly(how: Thinking, device: str) -> bool:
    """Whether thoughts are sampled without buffers that stay, on a device of this kind."""
    return how == "eager" or (how == "auto" and device == "cpu")


def tokens_per_image(config: RunConfig, shape: PolicyShape) -> int:
    """Image tokens of one of the run's pictures."""
    side = shape.pixels_per_token
    return (config.task.height // side) * (config.task.width // side)
