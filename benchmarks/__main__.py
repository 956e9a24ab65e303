"""All benchmark tables, one after another: ``python -m benchmarks [NAME ...]``.

Each benchmark is a process of its own, so that threads, engines and clusters of one do not weigh on
the next. Figures are ratios measured side by side in one run, with medians; the machine is shared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BENCHMARKS = {
    "autoscaling": "replicas over time under a steady and a bursty load; reversals, failed calls",
    "gpu": "one card: a token, a denoising step, a group drawn and learnt; on a CPU in miniature",
    "install": "what an installation costs: megabytes and seconds of the wheel, of packages",
    "kernels": "kernels against eager torch and Liger: milliseconds, error, memory",
    "mesh": "wall over the longest stage of steps that sleep: 4 to 64 runners, ranks, slices",
    "metrics": "series there at a first scrape and a minute later",
    "rounds": "one pass against one and two inference rounds: seconds, pictures per second",
    "weights": "publish, fetch and apply of 323 MB against put, get and one copy",
    "verification": "verdicts a second beside vLLM's own server asked by question; prefix hits",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    listing = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=listing)
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"benchmarks are {', '.join(BENCHMARKS)}; got {', '.join(unknown)}")
    failed = []
    for name in names:
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
