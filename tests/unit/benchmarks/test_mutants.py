"""The list of mutations cannot rot, and the command tells noticed from survived."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import ROOT, Mutation, Outcome

MUTATIONS = mutants.read_mutations()
FORMULAS = ("alphagrpo/algorithms/", "alphagrpo/flow/", "alphagrpo/kernels/")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_line_is_there_once_and_so_are_its_tests(mutation: Mutation) -> None:
    source = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, "reword the line in benchmarks/mutations.yaml too"
    assert mutation.old != mutation.new
    compile(source.replace(mutation.old, mutation.new), mutation.file, "exec")
    assert not [test for test in mutation.tests if not (ROOT / test).exists()]
    assert mutation.tests


def test_the_list_is_broad_and_leaves_the_formulas_to_their_own_tests() -> None:
    assert len(MUTATIONS) >= 30
    assert max(Counter(mutation.name for mutation in MUTATIONS).values()) == 1
    files = {mutation.file for mutation in MUTATIONS}
    assert len(files) >= 15
    assert not [file for file in files if file.startswith(FORMULAS)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one line and its tests."""
    root = tmp_path / "project"
    for package in ("alphagrpo", "actors", "services"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    (root / "alphagrpo" / "sums.py").write_text("def total(a, b):\n    return a + b\n")
    (root / "runs").mkdir()
    tests = {"weak": "total(0, 0) == 0", "strong": "total(2, 3) == 5", "wrong": "total(1, 1) == 3"}
    for name, claim in tests.items():
        text = f"from alphagrpo.sums import total\n\ndef test_total():\n    assert {claim}\n"
        (root / f"test_{name}.py").write_text(text)
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutants, "HEAVY", ("pytest",))
    return root


SUMS = Mutation(
    name="minus", file="alphagrpo/sums.py", old="a + b", new="a - b", tests=("test_strong.py",)
)


def test_a_mutation_is_noticed_by_a_test_that_fails_and_survives_one_that_does_not(
    tree: Path,
) -> None:
    weakly = replace(SUMS, name="weakly", tests=("test_weak.py",))
    outcomes = mutants.measure([SUMS, weakly, SUMS])
    assert [outcome.noticed for outcome in outcomes] == [True, False, True]
    assert "a + b" in (tree / SUMS.file).read_text(), "the tree itself stays as it is"


def test_tests_that_fail_anyway_or_are_not_there_prove_nothing(tree: Path) -> None:
    with pytest.raises(SystemExit, match="must pass before a line is broken"):
        mutants.measure([replace(SUMS, tests=("test_wrong.py",))])
    with pytest.raises(SystemExit, match="must be there"):
        mutants.measure([replace(SUMS, tests=("test_none.py",))])


def test_a_mutation_that_kills_the_tests_is_noticed_and_the_next_one_is_tried(tree: Path) -> None:
    kill = "__import__('os').kill(__import__('os').getpid(), 9)"
    deadly = replace(SUMS, name="deadly", new=kill)
    outcomes = mutants.measure([deadly, replace(SUMS, tests=("test_weak.py",))])
    assert [outcome.noticed for outcome in outcomes] == [True, False]


def test_a_line_that_is_not_there_once_is_refused(tree: Path) -> None:
    for old in ("a * b", "a"):
        with pytest.raises(SystemExit, match="must occur once"):
            mutants.measure([replace(SUMS, old=old)])


def test_the_copy_has_the_sources_and_no_runs(tree: Path, tmp_path: Path) -> None:
    mutants.copy_tree(tree, tmp_path / "copy")
    assert (tmp_path / "copy" / SUMS.file).exists()
    assert not (tmp_path / "copy" / "runs").exists()


def test_the_table_counts_what_was_noticed() -> None:
    outcomes = [
        Outcome(mutation=SUMS, noticed=True, seconds=1.4),
        Outcome(mutation=replace(SUMS, name="other"), noticed=False, seconds=2.6),
    ]
    table = mutants.table(outcomes)
    assert "| minus | alphagrpo/sums.py | noticed | 1 |" in table
    assert "| other | alphagrpo/sums.py | survived | 3 |" in table
    assert table.endswith("1 of 2 mutations in 1 files noticed")


def test_names_and_patterns_choose_and_unknown_ones_are_refused(monkeypatch, capsys) -> None:
    chosen: list[str] = []

    def measured(mutations) -> list[Outcome]:
        chosen[:] = [mutation.name for mutation in mutations]
        return [Outcome(mutation=m, noticed=m.name != chosen[-1], seconds=0.0) for m in mutations]

    monkeypatch.setattr(mutants, "measure", measured)
    assert mutants.main(["--only", "rounds-*-undivided", "--only", "no-wait-between-attempts"]) == 1
    assert chosen == ["rounds-text-undivided", "rounds-image-undivided", "no-wait-between-attempts"]
    assert "2 of 3 mutations" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        mutants.main(["--only", "no-such-line"])
