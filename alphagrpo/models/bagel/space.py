"""What a BAGEL holds while it computes, beside its weights and what it has read. Free of torch.

Numbers of values of the model's type. The terms are those of the code, layer by layer; a test holds
them to the tensors that are alive on the meta device, and another to what was measured on a GPU.

Legend: D hidden, I inner values of the MLP, Q and K values of a token's queries and of its keys,
S tokens of a sequence that are computed, T tokens that it has read before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from alphagrpo.models.bagel.config import LlmConfig

PART_TOKENS = 6144
"""Most tokens that go through an MLP at a time: enough rows that products of 7B's sizes still fill
a card, and a fraction of the 28,728 that a group has in a step with two branches.
"""
HIDDEN_FORWARD = 8
"""Matrices of D values a token that a layer has beside the inner ones of its MLP: residual sums,
norms, queries, the answer of attention, and the MLP's own.
"""
HIDDEN_ATTENDING = 5
"""The same while it attends."""
HIDDEN_KEPT = 8
"""What backward needs of a layer, without its inner values, keys and values."""
HIDDEN_BACKWARD = 4
"""Gradients on their way through an MLP, and its input."""
INNER_FORWARD = 4
"""Of I values: the activated gate, and an adapted projection with its adapter's two terms."""
INNER_KEPT = 4
"""Gate, activated gate, the other projection, and their product."""
INNER_BACKWARD = 5
"""These, and a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Practice:
    """How the code computes, as far as memory depends on it. The defaults are the code as it is;
    others are what it was when it was measured.
    """

    repeated_keys: bool = False
    """Whether keys and values are repeated to all heads before they are attended to."""
    part_tokens: int | None = PART_TOKENS
    """See :data:`PART_TOKENS`; None: an MLP has all tokens at once."""
    wide_head: bool = False
    """Whether the text head is in float32 whatever the type of the rest."""
    inputs_twice: bool = True
    """Whether each layer's input is counted twice in a replay. So much was held on a GPU, with
    torch 2.11, and no tensor of the code explains it: claimed until a measurement shows otherwise.
    """


AS_IT_IS = Practice()
"""The code of this version."""


@dataclass(frozen=True, slots=True)
class Space:
    """Values at the peak of a pass through the decoder of so many sequences."""

    llm: LlmConfig
    practice: Practice
    sequences: int
    tokens: int
    """S, of each sequence."""
    past: int
    """T, of each sequence."""

    @property
    def rows(self) -> int:
        """Tokens that are computed."""
        return self.sequences * self.tokens

    def forward(self) -> int:
        """Without gradient: keys and values of all layers, which are there until its end, and the
        layer in work, in its MLP or while it attends.
        """
        keys = self.llm.num_hidden_layers * 2 * self._keys
        inner = INNER_FORWARD * self.llm.intermediate_size / self._parts
        mlp = HIDDEN_FORWARD * self.llm.hidden_size + inner
        attending = HIDDEN_ATTENDING * self.llm.hidden_size + self._joined_keys
        if self.practice.repeated_keys:
            attending += self._attended_keys
        return math.ceil(self.rows * (keys + max(mlp, attending)))

    def replay(self, recomputed: int) -> int:
        """With gradient, of the pass that first goes forward and then back.

        The first ``recomputed`` layers keep their input, the others all that they need. The peak is
        in the last of these, or in the first of those that are computed again, when nothing is
        left of the others.
        """
        layers, hidden = self.llm.num_hidden_layers, self.llm.hidden_size
        inner = self.llm.intermediate_size
        kept = layers - recomputed
        held = (recomputed + layers * self.practice.inputs_twice) * hidden
        attention = HIDDEN_KEPT * hidden + 2 * self._keys + self._attended_keys
        # The gradient of a layer's output, and a part's way back.
        part = hidden + (INNER_BACKWARD * inner + HIDDEN_BACKWARD * hidden) / self._parts
        stages = []
        if kept:
            stages.append(kept * (attention + INNER_KEPT * inner) + part)
        if recomputed:
            stages.append(attention + max(part, hidden + self._attended_keys))
        return math.ceil(self.rows * (held + max(stages)))

    @property
    def _keys(self) -> int:
        """K"""
        return self.llm.num_key_value_heads * self.llm.head_dim

    @property
    def _seen(self) -> float:
        """Keys that a sequence attends to, per token of it that is computed."""
        return (self.past + self.tokens) / self.tokens

    @property
    def _joined_keys(self) -> float:
        """Per token: read and own keys and values side by side, as attention takes them."""
        return 2 * self._keys * self._seen

    @property
    def _attended_keys(self) -> float:
        """Per token: what attention is handed, and its backward needs, of keys and values."""
        if self.practice.repeated_keys:
            return 2 * self.llm.num_attention_heads * self.llm.head_dim * self._seen
        return self._joined_keys

    @property
    def _parts(self) -> int:
        """Parts of the tokens that go through an MLP one after another."""
        part = self.practice.part_tokens
        return 1 if part is None else math.ceil(self.rows / part)
