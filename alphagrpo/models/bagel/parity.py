"""Does this BAGEL compute what the released code computes?

``python -m alphagrpo.models.bagel.parity DIR`` runs every case of a folder of golden vectors and
prints each output's largest difference, tolerance and verdict. It exits with 1 where an output
misses its tolerance or no case here computes it, with 2 where the folder cannot be read.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alphagrpo.errors import CheckpointError
from alphagrpo.models.bagel import parity_image, parity_text, parity_training
from alphagrpo.models.bagel.golden import Golden, Produced

logger = logging.getLogger(__name__)

CASES: dict[str, Callable[[Golden], Produced]] = {
    "c0": parity_text.tables,
    "c1": parity_text.text,
    "c2": parity_text.vision,
    "c3": parity_text.latents,
    "c3e": parity_text.editing,
    "c4": parity_image.velocities,
    "c4f": parity_image.formula,
    "c5": parity_image.paths,
    "c6": parity_image.autoencoder,
    "c7": parity_training.training,
    "c8": parity_training.steps,
    "c8r": parity_training.rollout,
    "c9": parity_image.together,
    "c10": parity_text.resizing,
}

NORM_RELATIVE, NORM_OF_LARGEST = 1e-3, 1e-5
"""Gradient norms: relative per entry, plus a share of the largest entry."""
BYTES_OFF_BY_ONE = 1e-3
"""Share of an image's bytes that may be off by one: rounding at a truncation."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One output's comparison; ``difference`` and ``tolerance`` belong to its worst element."""

    name: str
    difference: float
    tolerance: float
    passed: bool
    note: str = ""


def compare(golden: Golden, name: str, got: Tensor) -> Verdict:
    """Compare one output with its expected value under its own rule."""
    want = golden.expected(name)
    if got.shape != want.shape:
        note = f"shape {list(got.shape)}, expected {list(want.shape)}"
        return Verdict(name, float("inf"), 0.0, False, note)
    difference = (got.detach().double() - want.double()).abs()
    # Equal infinities (the raw time of a clean picture) differ by nothing.
    difference = torch.where(got.double() == want.double(), 0.0, difference)
    if name.endswith(".uint8"):
        return _compare_bytes(name, difference)
    if name.endswith(".grad_norms"):
        want = want.double().abs()
        allowed = NORM_RELATIVE * want + NORM_OF_LARGEST * want.max()
    else:
        tolerance = golden.info[name].get("tol", 0.0) if want.is_floating_point() else 0.0
        allowed = torch.full_like(difference, tolerance)
    if difference.numel() == 0:
        return Verdict(name, 0.0, 0.0, True)
    worst = int((difference - allowed).nan_to_num(nan=torch.inf).argmax())
    # A comparison with NaN is false, so NaN misses.
    passed = bool((difference <= allowed).all())
    return Verdict(
        name, float(difference.flatten()[worst]), float(allowed.flatten()[worst]), passed
    )


def _compare_bytes(name: str, difference: Tensor) -> Verdict:
    largest = float(difference.max())
    off = int((difference > 0).sum())
    passed = largest <= 1 and off <= max(3, BYTES_OFF_BY_ONE * difference.numel())
    return Verdict(name, largest, 1.0, passed, f"{off} of {difference.numel()} bytes off by one")


def run_case(golden: Golden, case: str) -> Iterator[Verdict]:
    """All verdicts of one case; an output nobody computes is a miss."""
    outputs = [name for name in golden.outputs() if name.split(".")[0] == case]
    produced: Produced = {}
    note = "no case here computes it"
    if case in CASES:
        try:
            produced = CASES[case](golden)
        except Exception as error:
            logger.debug("case %s failed", case, exc_info=True)
            note = f"{type(error).__name__}: {error}"
    for name in outputs:
        if name in produced:
            yield compare(golden, name, produced[name])
        else:
            yield Verdict(name, float("nan"), float("nan"), False, f"not covered: {note}")


def run_all(golden: Golden) -> Iterator[Verdict]:
    """Verdicts of every output in the folder, case by case."""
    cases = dict.fromkeys(name.split(".")[0] for name in golden.outputs())
    for case in sorted(cases, key=_natural):
        yield from run_case(golden, case)


def _natural(case: str) -> tuple[int, str]:
    digits = "".join(c for c in case if c.isdigit())
    return (int(digits or 0), case)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m alphagrpo.models.bagel.parity",
        description="Compare this BAGEL with a folder of golden vectors (float32, one thread).",
    )
    parser.add_argument("folder", type=Path, help="folder with cases.json, weights and configs")
    parser.add_argument(
        "--case", action="append", help="run this case only, such as c4; repeatable"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        golden = Golden(arguments.folder)
    except (CheckpointError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _report(golden, arguments.case)


def _report(golden: Golden, cases: Sequence[str] | None) -> int:
    width = max((len(name) for name in golden.outputs()), default=4)
    print(f"{'output':<{width}}  {'difference':>10}  {'tolerance':>10}  verdict")
    missed: list[Verdict] = []
    total = 0
    verdicts = run_all(golden) if not cases else (v for c in cases for v in run_case(golden, c))
    for verdict in verdicts:
        total += 1
        mark = "ok" if verdict.passed else "MISS"
        note = f"  {verdict.note}" if verdict.note else ""
        numbers = f"{verdict.difference:>10.3g}  {verdict.tolerance:>10.3g}"
        print(f"{verdict.name:<{width}}  {numbers}  {mark}{note}")
        if not verdict.passed:
            missed.append(verdict)
    uncovered = [v.name for v in missed if v.note.startswith("not covered")]
    print(f"{total - len(missed)} of {total} outputs agree, {len(missed)} miss", end="")
    print(f", of which not covered: {', '.join(uncovered)}" if uncovered else "")
    return 1 if missed or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
