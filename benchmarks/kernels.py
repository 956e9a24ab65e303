"""Kernels against eager torch and Liger: time, share of the roof, peak memory, error.

    python -m benchmarks.kernels [--repeats 20] [--json FILE] [--only WORD]

On a GPU it times the Triton kernels on what the product runs, at BAGEL's sizes with a bfloat16
head. Without one it times the plain reference at small sizes, checks the Triton kernels in the
interpreter, and says so. A rival that does not run here is left out, with the reason. The table
goes to ``benchmarks/results`` under the card's name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from benchmarks.kernel_cases import cases
from benchmarks.tables import markdown
from benchmarks.timing import CLOCK, CUDA, Roofs, Row, compare, roofs, runnable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
INTERPRETED = ROOT / "tests" / "unit" / "kernels" / "interpreted"
HEADER = ("case", "contender", "ms", "× eager", "share of roof", "peak MiB", "error")


def device_name() -> str:
    """The card, or "CPU"."""
    return torch.cuda.get_device_name() if CUDA else "CPU"


def result_path(name: str) -> Path:
    """Where the table of a device goes."""
    return RESULTS / f"kernels-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.md"


def cells(row: Row) -> list[str]:
    """A table row."""
    peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    error = "-" if row.error is None else f"{row.error:.1e}"
    return [
        row.case,
        row.contender,
        f"{row.milliseconds:.3g}",
        ratio,
        f"{100 * row.roof:.0f} %",
        peak,
        error,
    ]


def page(rows: list[Row], best: Roofs, refusals: dict[str, str], repeats: int) -> str:
    """The Markdown page: what ran where, the table, and who is missing."""
    kind = "bfloat16" if CUDA else "float32"
    threads = "" if CUDA else f", {torch.get_num_threads()} thread(s)"
    lines = [
        f"# Kernels on {device_name()}",
        "",
        f"Printed by `python -m benchmarks.kernels`: torch {torch.__version__}, triton "
        f"{triton.__version__}{threads}; medians of {repeats}, rivals by turns, {CLOCK} time. "
        f"Roofs, the best of the same run: copy {best.copy / 1e9:,.0f} GB/s, {kind} product "
        f"{best.product / 1e12:,.3g} TFLOP/s. The share of the roof is the time the least work "
        "takes there (each tensor once, each product once) over the time it took; the error is the "
        "largest difference from float64.",
        "",
        markdown(HEADER, [cells(row) for row in rows]),
        *(["", "Not in the table:"] if refusals else []),
        *(f"- {who}: {reason}" for who, reason in refusals.items()),
    ]
    return "\n".join(lines) + "\n"


def interpreter_check() -> int:
    """Run the Triton kernels' tests in the interpreter; returns the exit status."""
    print("No GPU: the Triton kernels are not timed. Checking them in the interpreter ...")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    return subprocess.run(command, env=environment, check=False, cwd=ROOT).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--only", default="", help="cases with this word; writes no page")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    best = roofs(arguments.repeats)
    rows: list[Row] = []
    refusals: dict[str, str] = {}
    for case in cases():
        if arguments.only not in case.name:
            continue
        able, refused = runnable(case.contenders)
        refusals |= {f"{case.name}, {name}": why for name, why in refused.items()}
        rows += compare(
            case.name,
            able,
            next(iter(case.contenders)),
            case.truth,
            case.work,
            best,
            repeats=arguments.repeats,
            calls=case.calls,
        )
    text = page(rows, best, refusals, arguments.repeats)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if not arguments.only:
        result_path(device_name()).write_text(text, encoding="utf-8")
        if not CUDA:
            return interpreter_check()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
