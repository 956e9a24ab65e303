"""Kernels against eager torch: time, peak memory, error against float64.

    python benchmarks/kernels.py [--repeats 20] [--json FILE]

On a GPU it times the Triton kernels at BAGEL's shapes next to eager torch, and Liger's fused
cross entropy. Without one it times the plain reference at small shapes, checks the Triton kernels
in the interpreter, and says so. Rivals run alternately, so that a drifting clock hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from alphagrpo.flow import Guidance, guide, sde_step, shifted_times, transition_log_prob
from alphagrpo.kernels import guided_transition, replay_transition, token_log_probs

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
TIMES = shifted_times(16, 3.0).tolist()
GUIDANCE = Guidance(text_scale=4.0, renorm="global")
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    case: str
    contender: str
    milliseconds: float
    ratio: float
    """Eager time over this time: above 1 is faster than eager."""
    peak_mib: float | None
    error: float
    """Largest absolute difference from float64, of values and gradients."""


def measure(contenders: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, run in turns after two warm-up turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 2):
        for name, run in contenders.items():
            _wait()
            start = time.perf_counter()
            run()
            _wait()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def peak_mib(run: Callable[[], object]) -> float | None:
    if not CUDA:
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def leaf(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A leaf of its own, so that contenders do not add to each other's gradients."""
    return tensor.detach().to(dtype or tensor.dtype, copy=True).requires_grad_()


def grad(tensor: Tensor) -> Tensor:
    if tensor.grad is None:
        raise RuntimeError("no gradient reached this leaf")
    return tensor.grad


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def compare(
    case: str, contenders: dict[str, Callable[[], Values]], truth: Values, repeats: int
) -> list[Row]:
    """One row per contender; the first one is eager torch, to which the others are compared."""
    medians = measure(contenders, repeats)
    eager = next(iter(medians.values()))
    rows = []
    for name, run in contenders.items():
        values = run()
        error = max((values[k].double() - truth[k]).abs().max().item() for k in values)
        rows.append(Row(case, name, medians[name], eager / medians[name], peak_mib(run), error))
    return rows


def transition_rows(batch: int, tokens: int, repeats: int) -> list[Row]:
    """Replay of a guided step, forward and backward, and its rollout."""
    x, other, cond, text = torch.randn(4, batch, tokens, 64, device=DEVICE).unbind()
    step = {"t": TIMES[1], "t_next": TIMES[2], "noise_level": 0.7, "t_second": TIMES[1]}

    def eager(dtype: torch.dtype = torch.float32) -> Values:
        leaves = [leaf(v, dtype) for v in (cond, text)]
        velocity = guide(*leaves, text_scale=4.0, renorm="global")
        still = torch.zeros_like(velocity)
        _, mean, std = sde_step(x.to(dtype), velocity, noise=still, **step)
        if dtype == torch.float64:
            std = std.double()
        log_prob = transition_log_prob(other.to(dtype), mean, std, step["t_next"] - step["t"])
        log_prob.sum().backward()
        return {"log_prob": log_prob.detach(), "cond": grad(leaves[0]), "text": grad(leaves[1])}

    def ours() -> Values:
        leaves = [leaf(v) for v in (cond, text)]
        result = replay_transition(x, other, leaves, guidance=GUIDANCE, **step)
        result.log_prob.sum().backward()
        return {
            "log_prob": result.log_prob.detach(),
            "cond": grad(leaves[0]),
            "text": grad(leaves[1]),
        }

    seeds, samples = torch.full((batch,), 5, device=DEVICE), torch.arange(batch, device=DEVICE)

    @torch.no_grad()
    def eager_rollout() -> Values:
        velocity = guide(cond, text, text_scale=4.0, renorm="global")
        x_next, mean, std = sde_step(x, velocity, noise=torch.randn_like(x), **step)
        transition_log_prob(x_next, mean, std, step["t_next"] - step["t"])
        return {"mean": mean}

    @torch.no_grad()
    def our_rollout() -> Values:
        result = guided_transition(
            x, [cond, text], guidance=GUIDANCE, seeds=seeds, samples=samples, step=1, **step
        )
        return {"mean": result.mean}

    with torch.no_grad():
        doubles = [v.double() for v in (x, cond, text)]
        velocity = guide(*doubles[1:], text_scale=4.0, renorm="global")
        mean = sde_step(doubles[0], velocity, noise=torch.zeros_like(doubles[0]), **step)[1]
    shape = f"{batch} x {tokens} x 64, 2 branches"
    return [
        *compare(
            f"transition rollout, {shape}",
            {"eager": eager_rollout, "alphagrpo": our_rollout},
            {"mean": mean},
            repeats,
        ),
        *compare(
            f"transition replay + backward, {shape}",
            {"eager": eager, "alphagrpo": ours},
            eager(torch.float64),
            repeats,
        ),
    ]


def token_rows(tokens: int, vocabulary: int, width: int, repeats: int) -> list[Row]:
    """Log-probability and entropy with the gradient of the hidden states."""
    kind = torch.bfloat16 if CUDA else torch.float32
    hidden = torch.randn(tokens, width, device=DEVICE).to(kind)
    head = (torch.randn(vocabulary, width, device=DEVICE) / width**0.5).to(kind)
    targets = torch.randint(vocabulary, (tokens,), device=DEVICE)

    def finish(h: Tensor, log_probs: Tensor, entropy: Tensor) -> Values:
        (log_probs.sum() + 0.01 * entropy.sum()).backward()
        return {"log_probs": log_probs.detach(), "entropy": entropy.detach(), "hidden": grad(h)}

    def eager(dtype: torch.dtype = torch.float32) -> Values:
        h = leaf(hidden, dtype)
        log_probs = (h @ head.to(dtype).T).log_softmax(-1)
        chosen = log_probs.gather(-1, targets[:, None])[:, 0]
        return finish(h, chosen, -(log_probs.exp() * log_probs).sum(-1))

    def ours() -> Values:
        h = leaf(hidden)
        return finish(h, *token_log_probs(h, head, targets))

    def liger() -> Values:
        from liger_kernel.ops.fused_linear_scaled_cross_entropy import (
            LigerFusedLinearScaledCrossEntropyFunction as Fused,
        )

        h = leaf(hidden)
        nll, entropy = Fused.apply(h, head, targets, 1.0, -100, 1, True)
        return finish(h, -nll, entropy.float())

    contenders: dict[str, Callable[[], Values]] = {"eager": eager, "alphagrpo": ours}
    try:
        liger()
    except (ImportError, RuntimeError) as error:
        Console(stderr=True).print(f"Liger left out: {error}")
    else:
        contenders["liger"] = liger
    case = f"token log-probs + dX, T {tokens}, V {vocabulary}, D {width}, {str(kind)[6:]}"
    return compare(case, contenders, eager(torch.float64), repeats)


def show(rows: list[Row], console: Console) -> None:
    table = Table(title=f"{torch.cuda.get_device_name() if CUDA else 'CPU, plain reference'}")
    for heading in ("case", "contender", "ms", "x eager", "peak MiB", "max error vs fp64"):
        table.add_column(heading, justify="left" if heading in ("case", "contender") else "right")
    for row in rows:
        peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        figures = (f"{row.milliseconds:.3f}", f"{row.ratio:.2f}", peak, f"{row.error:.1e}")
        table.add_row(row.case, row.contender, *figures)
    console.print(table)


def interpreter_check(console: Console) -> int:
    """Run the Triton kernels' tests in the interpreter; returns the exit status."""
    folder = Path(__file__).parents[1] / "tests" / "unit" / "kernels" / "interpreted"
    console.print("No GPU: the Triton kernels are not timed. Checking them in the interpreter ...")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    console = Console()
    if CUDA:
        rows = transition_rows(14, 1024, arguments.repeats)
        rows += token_rows(4096, 152_064, 3584, arguments.repeats)
    else:
        rows = transition_rows(16, 9, arguments.repeats)
        rows += transition_rows(2, 1024, arguments.repeats)
        rows += token_rows(512, 8000, 256, arguments.repeats)
    show(rows, console)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if CUDA else interpreter_check(console)


if __name__ == "__main__":
    raise SystemExit(main())
