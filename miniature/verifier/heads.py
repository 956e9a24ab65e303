"""Temporary heads of the verifier's training: what each part should know before answers teach it.

From answers alone a fresh model of this size learns in this order, each after a long wait: that a
thing is there, how many there are, where they lie. Each head asks one of these of the very tokens
that must carry it. None is part of the saved model.

Legend of shapes: B pictures, Q questions each, S = 9 cells, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from alphagrpo.shapes.grammar import Reading
from alphagrpo.shapes.world import BACKGROUND_NAMES, COLOUR_NAMES, GRID, KINDS
from miniature.judge_tokenizer import single_id
from miniature.verifier.model import IMAGE_TOKENS, PREFIX, WIDTH
from miniature.verifier.questions import predicate_of

COUNT_LAYER, POINT_LAYER, NUMBER_LAYER, COMPARE_LAYER = 1, 1, 2, 2
"""The text layer (from 0) after which each is asked for: later layers read what is put there."""
MOST = 6
"""Largest count told apart: no question asks for more than four, so five and more are too many."""
COUNTED = 1 + len(KINDS) + len(COLOUR_NAMES) + len(KINDS) * len(COLOUR_NAMES)


def cell_labels(readings: Sequence[Reading]) -> Tensor:
    """[B, S, 3] what is in each cell, and the background, as classes of :class:`CellHead`."""

    def index(name: str | None, names: Sequence[str]) -> int:
        return 1 if name is None else 2 + names.index(name)

    labels = torch.zeros(len(readings), IMAGE_TOKENS, 3, dtype=torch.long)
    for row, reading in enumerate(readings):
        labels[row, :, 2] = index(reading.background, BACKGROUND_NAMES)
        for seen in reading.objects:
            cell = seen.row * GRID + seen.col
            labels[row, cell, 0] = index(seen.kind, KINDS)
            labels[row, cell, 1] = index(seen.colour, COLOUR_NAMES)
    return labels


class CellHead(nn.Module):
    """Names a cell's kind, colour, background, row and column from its image token.

    The prototype of each name is the embedding of its word, so that an image token comes to lie
    where the words for what it shows lie: a question's words then find it by likeness alone.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.words = [
            torch.tensor([single_id(tokenizer, f" {name}") for name in names])
            for names in (KINDS, COLOUR_NAMES, BACKGROUND_NAMES)
        ]
        self.others = nn.Parameter(torch.randn(len(self.words), 2, WIDTH) * 0.3)
        """Prototypes of "none" and "unclear"."""
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        self.places = nn.Linear(WIDTH, 2 * GRID)
        """Row and column of the cell, without which no relation can be told."""

    def loss(self, features: Tensor, labels: Tensor, table: Tensor) -> Tensor:
        """Mean cross-entropy for features [B, S, d], labels [B, S, 3], embeddings [V, d]."""
        flat = features.float().flatten(0, 1)
        losses = []
        for index, words in enumerate(self.words):
            prototypes = torch.cat([self.others[index], table[words]])
            logits = self.log_scale.exp() * flat @ prototypes.T
            losses.append(F.cross_entropy(logits, labels[..., index].flatten()))
        cells = torch.arange(IMAGE_TOKENS).repeat(len(features))
        for logits, place in zip(
            self.places(flat).split(GRID, dim=-1), (cells // GRID, cells % GRID), strict=True
        ):
            losses.append(F.cross_entropy(logits, place))
        return torch.stack(losses).mean()


def flaw_labels(readings: Sequence[Reading]) -> Tensor:
    """[B, 3] 1 where a quality question is answered no: shapes, colours, background."""
    return torch.tensor(
        [[not r.complete, not r.even_colour, not r.even_background] for r in readings],
        dtype=torch.float32,
    )


class FlawHead(nn.Module):
    """Reads from the image tokens which flaws a picture has: one cell is enough."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 3)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy for features [B, S, d], labels [B, 3]."""
        cells = self.linear(F.layer_norm(features.float(), (WIDTH,)))
        return F.binary_cross_entropy_with_logits(cells.logsumexp(dim=1), labels)


def count_labels(readings: Sequence[Reading]) -> Tensor:
    """[B, 1 + 4 + 6 + 24] how many objects there are: in all, of each kind, colour and both.

    At most ``MOST``; in all, one more where something is unclear. In the order of the world's
    lists; for "both" the colour varies quickest.
    """
    labels = torch.zeros(len(readings), COUNTED, dtype=torch.long)
    for row, reading in enumerate(readings):
        for seen in reading.objects:
            kind = -1 if seen.kind is None else KINDS.index(seen.kind)
            colour = -1 if seen.colour is None else COLOUR_NAMES.index(seen.colour)
            labels[row, 0] += 1
            if kind >= 0:
                labels[row, 1 + kind] += 1
            if kind >= 0 and colour >= 0:
                labels[row, 5 + colour] += 1
                labels[row, 11 + kind * len(COLOUR_NAMES) + colour] += 1
        labels[row].clamp_(max=MOST)
        if reading.unclear:
            labels[row, 0] = MOST + 1
    return labels


class CountHead(nn.Module):
    """Reads from the fence after the image tokens how many objects of each sort there are."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, COUNTED * (MOST + 2))

    def loss(self, layers: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mean cross-entropy for the text layers' outputs and labels [B, 35]."""
        fence = layers[COUNT_LAYER][:, PREFIX - 1]
        normed = F.layer_norm(fence.float(), (WIDTH,))
        logits = self.linear(normed).view(-1, MOST + 2)
        return F.cross_entropy(logits, labels.flatten())


def _nouns(text: str) -> list[tuple[int, str | None, str | None]]:
    """(token, kind, colour) of the nouns of a question that name objects.

    Every word of a question is one token, so a noun's token is its place among the words. The
    colour is the one known when the noun is read.
    """
    predicate, words = predicate_of(text), text.split()
    last = len(words) - 2
    if predicate.type in ("existence", "count"):
        return [(last, predicate.kind, predicate.colour)]
    if predicate.type == "attribute":
        return [(2, predicate.kind, None)]
    if predicate.type == "spatial":
        first = words.index(predicate.relation.split()[0]) - 1
        return [(first, predicate.kind, predicate.colour), (last, *predicate.other)]
    return []


def named(reading: Reading, kind: str | None, colour: str | None) -> tuple[int, int]:
    """(cell, number) of the objects a noun names; the cell is -1 unless there is exactly one."""
    seen = [
        thing
        for thing in reading.objects
        if thing.kind is not None and kind in (None, thing.kind) and colour in (None, thing.colour)
    ]
    cell = seen[0].row * GRID + seen[0].col if len(seen) == 1 else -1
    return cell, min(len(seen), MOST)


def namings(texts: Sequence[Sequence[str]], readings: Sequence[Reading]) -> Tensor:
    """[N, 5] (picture, question, token, cell, number): what each noun names, see :func:`named`."""
    rows = [
        (row, column, token, *named(reading, kind, colour))
        for row, (questions, reading) in enumerate(zip(texts, readings, strict=True))
        for column, text in enumerate(questions)
        for token, kind, colour in _nouns(text)
    ]
    return torch.tensor(rows, dtype=torch.long).view(-1, 5)


def placed(rows: Tensor, length: int, start: int) -> Tensor:
    """[N, 1 + ...] rows (picture, question, token, ...) as (picture, position, ...).

    Questions of ``length`` tokens follow one another from position ``start`` of the packed row.
    """
    position = start + rows[:, 1] * length + rows[:, 2]
    return torch.cat([rows[:, :1], position[:, None], rows[:, 3:]], dim=1)


def _normed(layer: Tensor, rows: Tensor) -> Tensor:
    """[N, d] a layer's output at rows (picture, position, ...), normalised."""
    return F.layer_norm(layer[rows[:, 0], rows[:, 1]].float(), (WIDTH,))


class NounHead(nn.Module):
    """Reads from a noun how many objects it names, and the cell of a single one."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(WIDTH, IMAGE_TOKENS)
        self.number = nn.Linear(WIDTH, MOST + 1)

    def loss(self, layers: Sequence[Tensor], nouns: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropies (of cells, of numbers) for rows (picture, position, cell, number).

        0 where there are none.
        """
        single = nouns[nouns[:, 2] >= 0]
        cells = self.cell(_normed(layers[POINT_LAYER], single))
        numbers = self.number(_normed(layers[NUMBER_LAYER], nouns))
        return (
            F.cross_entropy(cells, single[:, 2], reduction="sum") / max(1, len(single)),
            F.cross_entropy(numbers, nouns[:, 3], reduction="sum") / max(1, len(nouns)),
        )


def comparisons(texts: Sequence[Sequence[str]], nouns: Tensor) -> Tensor:
    """[M, 5] (picture, question, token, across, down) of questions whose two nouns name one each.

    ``token`` is the question mark; ``across`` and ``down`` are 0 where the first object lies left
    of (above) the second, 1 where it lies level, 2 where it lies right of (below) it.
    """
    cells: dict[tuple[int, int], list[int]] = {}
    for picture, question, _, cell, _ in nouns.tolist():
        if cell >= 0:
            cells.setdefault((picture, question), []).append(cell)
    pairs = []
    for (picture, question), ends in cells.items():
        if len(ends) == 2:
            (r1, c1), (r2, c2) = (divmod(cell, GRID) for cell in ends)
            last = len(texts[picture][question].split()) - 1
            across, down = 1 + (c1 > c2) - (c1 < c2), 1 + (r1 > r2) - (r1 < r2)
            pairs.append((picture, question, last, across, down))
    return torch.tensor(pairs, dtype=torch.long).view(-1, 5)


class CompareHead(nn.Module):
    """Reads from a relation's question mark how its two objects lie to one another."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2 * 3)

    def loss(self, layers: Sequence[Tensor], pairs: Tensor) -> Tensor:
        """Mean cross-entropy for rows (picture, position, across, down); 0 where there are none."""
        sides = self.linear(_normed(layers[COMPARE_LAYER], pairs)).split(3, dim=-1)
        losses = [
            F.cross_entropy(logits, truth, reduction="sum")
            for logits, truth in zip(sides, pairs[:, 2:].T, strict=True)
        ]
        return torch.stack(losses).mean() / max(1, len(pairs))
