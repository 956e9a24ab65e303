"""Which broken lines do the tests notice: ``python -m benchmarks.mutants [--only NAME]``.

``benchmarks/mutations.yaml`` lists single lines outside the formulas, each with what it is broken
into and the tests that should fail then. Mutations are made one at a time in a copy of the tree;
the tree itself is never touched. The exit code is 1 where one survives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from benchmarks.tables import markdown

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutations.yaml")
TIMEOUT_S = 300
NOT_COPIED = (".git", ".venv", "runs", "build", "*.egg-info", "__pycache__", ".*_cache")
HEAVY = ("torch", "numpy", "pydantic", "pyarrow.parquet", "ray.serve", "fastapi", "httpx", "pytest")
WARM = """
import importlib, importlib.util, json, os, signal, sys, time
heavy, timeout_s, root = json.loads(sys.argv[1])
# An editable install of another checkout must not answer for the copy's packages.
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
for name in heavy:
    importlib.import_module(name)
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for line in sys.stdin:
    arguments = json.loads(line)
    if arguments is None:
        origins = [importlib.util.find_spec(n).origin for n in ("alphagrpo", "actors", "services")]
        answer = [o for o in origins if not os.path.realpath(o).startswith(root + os.sep)]
    else:
        child, deadline, ended = os.fork(), time.monotonic() + timeout_s, (0, 0)
        if not child:
            os._exit(sys.modules["pytest"].main(arguments))
        while not ended[0]:
            time.sleep(0.05)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, os.WNOHANG)
        answer = os.waitstatus_to_exitcode(ended[1])
    print(json.dumps(answer), file=answers, flush=True)
"""
PASSED, NO_TESTS = 0, (4, 5)
"""Exit codes of pytest: all passed; a named test is not there, or none was collected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A line, what it is broken into, and the tests that should notice."""

    name: str
    file: str
    old: str
    """Occurs exactly once in ``file``; lines around the broken one make it so where needed."""
    new: str
    tests: tuple[str, ...]
    """Files or folders of tests, relative to the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the tests made of a mutation."""

    mutation: Mutation
    noticed: bool
    seconds: float


def read_mutations(path: Path = LIST) -> tuple[Mutation, ...]:
    """The list, in its order."""
    records = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(Mutation(**record | {"tests": tuple(record["tests"])}) for record in records)


def copy_tree(root: Path, target: Path) -> None:
    """The tree as it lies on disk, without what is installed, recorded or cached there."""
    shutil.copytree(root, target, ignore=shutil.ignore_patterns(*NOT_COPIED))


@contextmanager
def mutated(root: Path, mutation: Mutation) -> Iterator[None]:
    """The file under ``root`` is broken inside the block, and as it was after it."""
    path = root / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.name}: its old text must occur once in {mutation.file}, it does "
            f"{text.count(mutation.old)} times; correct {LIST.name}"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")


class Tests:
    """Runs tests of the tree at ``root``, each time in a new fork of one warm process.

    The process has imported what is heavy and not ours, which costs more than most of the tests.
    """

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WARM, json.dumps([HEAVY, TIMEOUT_S, str(root)])],
            cwd=root, env=_environment(root), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        if strays := self._ask(None):
            raise SystemExit(f"the copy's own packages must be imported, not {strays}")

    def pass_(self, tests: Sequence[str]) -> bool:
        """Whether all of ``tests`` pass; a run that hangs or is killed does not."""
        code = self._ask(["-q", "-x", "-p", "no:cacheprovider", *tests])
        if code in NO_TESTS:
            raise SystemExit(f"the named tests must be there, pytest found none: {tests}")
        return code == PASSED

    def _ask(self, arguments: Sequence[str] | None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the warm process."""
        self._process.communicate()


def measure(mutations: Sequence[Mutation]) -> list[Outcome]:
    """The outcome of each mutation, told as it is known; all tests must pass without any."""
    outcomes = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-"))
        root = Path(folder).resolve() / "tree"
        copy_tree(ROOT, root)
        tests = stack.enter_context(closing(Tests(root)))
        if not tests.pass_(sorted({test for m in mutations for test in m.tests})):
            raise SystemExit("the tests must pass before a line is broken, they do not")
        for mutation in mutations:
            started = perf_counter()
            with mutated(root, mutation):
                noticed = not tests.pass_(mutation.tests)
            outcomes.append(
                Outcome(mutation=mutation, noticed=noticed, seconds=perf_counter() - started)
            )
            print(f"{mutation.name}: {_word(noticed)}", file=sys.stderr, flush=True)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """A row per mutation, and how many of them were noticed."""
    rows = [
        [o.mutation.name, o.mutation.file, _word(o.noticed), f"{o.seconds:.0f}"] for o in outcomes
    ]
    noticed = sum(outcome.noticed for outcome in outcomes)
    files = len({outcome.mutation.file for outcome in outcomes})
    total = f"{noticed} of {len(outcomes)} mutations in {files} files noticed"
    return markdown(("mutation", "file", "outcome", "s"), rows) + f"\n\n{total}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a mutation survived."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="a mutation, or a pattern such as 'loop-*'"
    )
    patterns = parser.parse_args(arguments).only or ["*"]
    mutations = [m for m in read_mutations() if any(fnmatch(m.name, p) for p in patterns)]
    if not mutations:
        parser.error(f"no mutation is called {', '.join(patterns)}; see {LIST.name}")
    outcomes = measure(mutations)
    print(table(outcomes))
    return int(not all(outcome.noticed for outcome in outcomes))


def _environment(root: Path) -> dict[str, str]:
    # No bytecode: a file that is broken and restored within a second would run from a stale cache.
    return os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}


def _word(noticed: bool) -> str:
    return "noticed" if noticed else "survived"


if __name__ == "__main__":
    sys.exit(main())
