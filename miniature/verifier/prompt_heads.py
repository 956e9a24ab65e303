"""Temporary heads for questions about a whole prompt, which demand more than one look.

A prompt must be read (riddles included), each of its demands compared with the picture, and the
outcomes joined. Two heads ask for the first two steps; the answer is the third. Neither is part of
the saved model.

Legend of shapes: N prompts, B pictures, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphagrpo.shapes.language import KIND_OF
from alphagrpo.shapes.questions import reference_questions
from alphagrpo.shapes.specs import RELATIONS, Spec
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, KINDS, MAX_OBJECTS
from miniature.verifier.model import WIDTH
from miniature.verifier.questions import predicate_of

READ_LAYER, DEMAND_LAYER = 2, 3
"""The text layer (from 0) after which each is asked for."""
_SLOTS = (
    *(MAX_OBJECTS + 1, 1 + len(COLOUR_NAMES), 1 + len(KINDS)) * 2,
    *(1 + len(names) for names in (RELATIONS, BACKGROUND_NAMES, (*KINDS, *COLOUR_NAMES))),
)
"""Number of classes: of number, colour and kind of two items, of relation, ground, absence."""
_DEMANDS = ("first", "second", "attribute", "spatial", "total", "background", "negative")
NOT_ASKED = -1


def demand_labels(spec: Spec) -> list[int]:
    """What a prompt asks for, one class per slot of :class:`ReadHead`; 0 is nothing."""

    def index(name: str | None, names: Sequence[str]) -> int:
        return 0 if name is None else 1 + names.index(name)

    labels: list[int] = []
    for item in (*spec.items, None)[:2]:
        labels += (
            [0, 0, 0]
            if item is None
            else [item.number, index(item.colour, COLOUR_NAMES), index(item.kind, KINDS)]
        )
    labels.append(index(spec.relation, RELATIONS))
    labels.append(index(spec.background, BACKGROUND_NAMES))
    return [*labels, index(spec.absent, (*KINDS, *COLOUR_NAMES))]


def truth_labels(spec: Spec, held: Sequence[bool]) -> list[int]:
    """[7] 1, 0 or ``NOT_ASKED`` per sort of demand, from the semantic questions that hold."""
    labels = dict.fromkeys(_DEMANDS, NOT_ASKED)
    questions = [q for q in reference_questions(spec) if q.kind == "semantic"]
    for question, holds in zip(questions, held, strict=True):
        name: str = predicate_of(question.text).type
        if name in ("existence", "count"):
            name = "first" if labels["first"] == NOT_ASKED else "second"
        labels[name] = int(holds)
    return list(labels.values())


def prompt_nouns(words: Sequence[str], spec: Spec) -> list[tuple[int, str, str]]:
    """(token, kind, colour) of the items a prompt names by their plain colour and noun.

    ``words`` are a prompt's tokens as text, with their leading spaces.
    """
    sorts = {(item.colour, item.kind) for item in spec.items}
    nouns = []
    for token in range(1, len(words)):
        colour, kind = words[token - 1].strip(), KIND_OF.get(words[token].strip(), "")
        if (colour, kind) in sorts:
            nouns.append((token, kind, colour))
    return nouns


class ReadHead(nn.Module):
    """Reads from the quotation mark after a prompt what it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, sum(_SLOTS))

    def loss(self, layers: Sequence[Tensor], at: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy at rows (picture, position) [N, 2], labels [N, 9]."""
        read = layers[READ_LAYER][at[:, 0], at[:, 1]].float()
        logits = self.linear(F.layer_norm(read, (WIDTH,))).split(list(_SLOTS), dim=-1)
        losses = [F.cross_entropy(x, y) for x, y in zip(logits, labels.T, strict=True)]
        return torch.stack(losses).mean()


class DemandHead(nn.Module):
    """Reads from the question mark after a prompt which of its demands the picture meets."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, len(_DEMANDS))

    def loss(self, layers: Sequence[Tensor], at: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy at rows (picture, position) [N, 2], labels [N, 7]."""
        read = layers[DEMAND_LAYER][at[:, 0], at[:, 1]].float()
        logits = self.linear(F.layer_norm(read, (WIDTH,)))
        known = labels != NOT_ASKED
        return F.binary_cross_entropy_with_logits(logits[known], labels[known].float())
