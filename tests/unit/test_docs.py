"""The manuals name what exists, and their code runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from alphagrpo.config import RunConfig, load_config
from alphagrpo.data import load_prompts
from alphagrpo.rewards.judging import judge_picture
from alphagrpo.rewards.programs import RewardProgram, load_reward_program
from alphagrpo.types import QuestionSet, Verdict
from tests.fakes import FakeVerifier, make_questions

ROOT = Path(__file__).parents[2]
PACKAGES = ("alphagrpo", "actors", "services", "miniature", "benchmarks", "tests")
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "miniature").glob("*.md"),
    ]
)

MADE_BY_USERS = {
    # Written by a run.
    "runs/shapes-rt2i/report.html",
    "runs/before",
    "runs/after",
    "ledger/step-*.parquet",
    # No path: metrics, a type of content.
    "reward/mean",
    "prompts/put_off",
    "weights/effect",
    "prompts/skipped",
    "prompts/dropped",
    "learner/lag",
    "image/max_abs_log_ratio",
    "parity/image_max_abs_log_ratio",
    "parity/text_max_abs_log_ratio",
    "hidden/verify_s",
    "hidden/learn_s",
    "hidden/sync_s",
    "stage/draw_s",
    "stage/learn_s",
    "stage/shared_s",
    "watch/canary_unanswered",
    "runs/shapes-rt2i",
    "application/json",
}
"""What looks like a path of the repository and is none, and why."""
METHODS = {"learner.update", "learner.publish"}
"""Dotted names that begin like a section of the run config and are none."""

USERS_MODULES = {"my_reward.py", "my_rewards.py"}
"""Modules that a reader writes."""

SPAN = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w/.<{:-])[A-Za-z_][\w.-]*(?:/[\w.*-]+)+/?(?![\w/<{])")
SOURCE = re.compile(r"(?<![\w/.<{:-])[a-z_]\w*\.py(?!\w)")
DOTTED = re.compile(r"(?<![\w/.-])[a-z_]\w*(?:\.\w+)+(?![\w/(])")


def code(page: Path) -> Iterator[str]:
    """Code spans and code blocks of a page, without addresses."""
    for block, span in SPAN.findall(page.read_text(encoding="utf-8")):
        yield re.sub(r"https?://\S+|localhost:\S+", "", block or span)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def exists(name: str, page: Path) -> bool:
    """Whether ``name``, which may hold ``*``, leads anywhere from root, library, or page."""
    bases = (ROOT, ROOT / "alphagrpo", page.parent)
    return any(next(base.glob(name.rstrip("/")), None) for base in bases)


def module_of(parts: list[str]) -> tuple[Path | None, list[str]]:
    """The file of the longest module that ``parts`` begin with, and what is left of them."""
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py"), parts[end:]
        if (path / "__init__.py").is_file():
            return path / "__init__.py", parts[end:]
    return None, parts


def names_in(path: Path) -> set[str]:
    """What a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def is_setting(parts: list[str]) -> bool:
    """Whether ``parts`` lead to a field of the run config."""
    model: Any = RunConfig
    for part in parts:
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return False
        kinds = [fields[part].annotation, *getattr(fields[part].annotation, "__args__", ())]
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return True


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, something in one, a setting, or none of our business."""
    parts = name.split(".")
    if parts[0] in RunConfig.model_fields and is_setting(parts):
        return True
    if parts[0] in PACKAGES:
        path, rest = module_of(parts)
        return path is not None and (not rest or rest[0] in names_in(path))
    return parts[0] not in RunConfig.model_fields or name in METHODS


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not link.startswith("http")]
    assert [link for link in local if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_paths_exist(page: Path) -> None:
    paths = {path for text in code(page) for path in FILE.findall(text)}
    assert [path for path in sorted(paths - MADE_BY_USERS) if not exists(path, page)] == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_source_files_that_are_named_alone_exist(page: Path) -> None:
    files = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    names = {name for text in code(page) for name in SOURCE.findall(text)}
    assert sorted(names - files - USERS_MODULES) == []


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_dotted_names_are_modules_or_settings(page: Path) -> None:
    names = {name for text in code(page) for name in DOTTED.findall(text)}
    assert [name for name in sorted(names) if not resolves(name)] == []


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, for types only too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> list[tuple[list[str], list[str]]]:
    """Rows of the architecture's table: folders and files, and what they import nothing of."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.partition("| imports nothing of |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:4] for line in table.splitlines()[2:]]
    return [(re.findall("`(.*?)`", row[0]), re.findall("`(.*?)`", row[2])) for row in rows]


def test_the_table_of_imports_is_true() -> None:
    rows = arrows()
    assert len(rows) >= 12
    wrong = []
    for places, banned in rows:
        assert banned, places
        cli = ROOT / "alphagrpo/cli" if places[0] == "alphagrpo/" else None
        for place in places if cli is None else places[:1]:
            path = ROOT / place
            files = [path] if path.is_file() else sorted(path.rglob("*.py"))
            assert files, place
            wrong += [
                f"{file.relative_to(ROOT)} imports {name}"
                for file in files
                if cli is None or cli not in file.parents
                for name in imported(file)
                if any(f"{name}.".startswith(f"{other}.") for other in banned)
            ]
    assert wrong == []


def sections(page: Path) -> dict[str, str]:
    """Title of each section to its Python code, put together."""
    _, *parts = page.read_text(encoding="utf-8").split("\n## ")
    return {
        part.partition("\n")[0]: "\n\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))
        for part in parts
    }


def test_the_readmes_reward_works_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "my_reward.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    program = load_reward_program("my_reward:Weakest")
    assert isinstance(program, RewardProgram)
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    question_set = make_questions("two red circles")
    verdicts = tuple(
        Verdict(question_id=question.id, p_yes=p_yes, judge="fake")
        for question, p_yes in zip(question_set.questions, (0.9, 0.25), strict=True)
    )
    score = program.score(question_set, verdicts)
    assert score is not None
    assert (score.value, score.program) == (0.25, "weakest")
    assert program.score(question_set, verdicts[:1]) is None


async def test_the_readmes_reward_judges_a_picture() -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec", dont_inherit=True), names)
    pixels, question_set = np.zeros((16, 16, 3), np.uint8), make_questions("two red circles")
    verifier = FakeVerifier(judge=lambda _, question: 0.5 if question.id == "s0" else 0.75)
    score = await judge_picture(names["Weakest"](), question_set, pixels, verifier)
    assert score.value == 0.5
    assert score.questions == question_set.questions


def test_the_readmes_config_is_valid(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "README.md", "yaml")
    base = ROOT / yaml.safe_load(block)["base"]
    mine = tmp_path / "mine.yaml"
    mine.write_text(block.replace(yaml.safe_load(block)["base"], str(base)), encoding="utf-8")
    config = load_config(mine)
    assert config.name == "my-run"
    assert config.data.train == "my-prompts.txt"
    assert config.reward.program == "my_reward:Weakest"
    assert config.data.heldout == load_config(base).data.heldout


def test_a_reward_and_a_prompt_source_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    manual = sections(ROOT / "docs/extending.md")
    names: dict[str, Any] = {"__name__": "manual"}
    for title in ("A reward", "A prompt source"):
        exec(compile(manual[title], title, "exec", dont_inherit=True), names)
    assert isinstance(names["Legible"](), RewardProgram)
    assert names["score"].value == 0.7
    assert capsys.readouterr().out.startswith("0.7 [('from 0 to 10 , how well")
    empty = QuestionSet(prompt="x", questions=(), revision="none")
    assert names["Legible"]().score(empty, ()) is None
    assert {prompt.id for prompt in names["prompts"]} == {"open", "shut"}
    assert (names["plain"].id, names["thought"].id) == ("open", "shut")
    assert names["prompts"] == load_prompts("signs.jsonl", seed=42)


FAMILY_CHECKS = """
from alphagrpo.policy.memory import memory_estimate, model_size

for protocol, thing in ((family.PolicyFamily, TinyFamily()), (family.PolicyShape, TinyShape())):
    members = [name for name in vars(protocol) if not name.startswith("_")]
    assert len(members) >= 8
    assert [name for name in members if not hasattr(thing, name)] == []
shape, size = model_size(config)
assert size.total == sum(p.numel() for p in TinyPolicy().parameters())
assert memory_estimate(config, shape, size).trainable == 1056 + 1283
"""


def test_a_policy_family_of_ones_own_trains() -> None:
    """In a process of its own: the family is replaced before anything has read it."""
    program = sections(ROOT / "docs/extending.md")["A policy family"] + FAMILY_CHECKS
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr
    reward, parity = done.stdout.splitlines()
    first, _, last = (float(value) for value in reward.split()[1:])
    assert last > first + 0.3
    assert parity == "parity 0.0"
