"""One card in one command of some minutes: ``python -m benchmarks.gpu [--recipe bagel-7b-srr]``.

BAGEL-7B with random weights, the recipe's constants: does attention repeat itself, what does a
token, a denoising step, a group drawn and a group learnt take and what share of the card's roof is
that, do rollout and replay agree before and after an update, and does memory keep to what
``--dry-run`` claims. Without a GPU the miniature goes through the same code, for tests of this
program. The page is ``benchmarks/results/gpu-<card>.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

import torch
from rich.console import Console

from alphagrpo.cli.console import print_table
from benchmarks.gpu.sections import SECTIONS, Bench, Row
from benchmarks.gpu.subject import subject
from benchmarks.kernels import RESULTS, device_name
from benchmarks.tables import markdown
from benchmarks.timing import CUDA, DEVICE, roofs

ROOF_REPEATS = 10
COLUMNS = ("measured", "value", "beside")


def main() -> int:
    """Measure, print, write the page; 1 where a section failed or was left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--recipe", default="bagel-7b-rt2i", help="of deploy/configs")
    parser.add_argument("--thought-tokens", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=6.0, help="no section begins later")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    card = device_name()
    console = Console()
    bench = Bench(
        subject=subject(args.recipe, thought_tokens=args.thought_tokens, device=DEVICE),
        roofs=roofs(ROOF_REPEATS),
        tokens=min(32, args.thought_tokens),
    )
    console.print(
        f"{card}, torch {torch.__version__}: copy {bench.roofs.copy / 1e9:.0f} GB/s, "
        f"product {bench.tflops:.2f} TFLOP/s"
    )
    pages, failed = [], 0
    for name in args.only:
        rows, whole = _rows(bench, name, end)
        failed += not whole
        print_table(console, name, rows, COLUMNS)
        pages.append(f"## {name.capitalize()}\n\n{markdown(COLUMNS, rows)}\n")
    if CUDA:
        _write(card, args, bench, pages)
    return int(bool(failed))


def _rows(bench: Bench, name: str, end: float) -> tuple[list[Row], bool]:
    """A section's rows, and whether it was measured whole."""
    if time.monotonic() > end:
        return [Row(name, "left out", "time is up")], False
    rows: list[Row] = []
    try:
        # Row by row, so that what was measured before a failure is kept.
        rows += SECTIONS[name](bench)
    except Exception as error:  # a section of its own must not take the others with it
        traceback.print_exc()
        return [*rows, Row(name, "FAILED", f"{type(error).__name__}: {error}")], False
    return rows, True


def _write(card: str, args: argparse.Namespace, bench: Bench, pages: list[str]) -> None:
    head = (
        f"# {card}\n\nPrinted by `python -m benchmarks.gpu --recipe {args.recipe} "
        f"--thought-tokens {args.thought_tokens}` with torch {torch.__version__}: random weights "
        f"of the released shape. Roofs measured in the same run: {bench.roofs.copy / 1e9:.0f} "
        f"GB/s, {bench.tflops:.0f} TFLOP/s.\n\n"
    )
    name = card.lower().replace(" ", "-")
    path = RESULTS / f"gpu-{name}-{args.recipe}.md"
    path.write_text(head + "\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
