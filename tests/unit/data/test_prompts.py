from __future__ import annotations

from pathlib import Path

import pytest

from alphagrpo.data import check_source, load_heldout, load_prompts, sort_of
from alphagrpo.errors import ConfigError, PromptFileError


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_text_file_gives_one_prompt_per_line_with_stable_ids(tmp_path: Path) -> None:
    source = write(tmp_path / "p.txt", "a red circle\n\n  two squares \n")
    found = {prompt.id: prompt.text for prompt in load_prompts(source)}
    assert found == {"p:1": "a red circle", "p:3": "two squares"}


def test_json_lines_take_prompt_or_text_and_keep_the_rest_as_metadata(tmp_path: Path) -> None:
    source = write(
        tmp_path / "p.jsonl",
        '{"prompt": "a", "level": 3}\n{"text": "b", "id": "mine", "sort": "thought"}\n',
    )
    found = {prompt.id: prompt for prompt in load_prompts(source)}
    assert found["p:1"].text == "a"
    assert found["p:1"].metadata == {"level": 3}
    assert found["mine"].text == "b"
    assert sort_of(found["mine"]) == "thought"


def test_order_depends_on_the_seed_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "p.txt", "\n".join(f"prompt {i}" for i in range(50)))
    first = load_prompts(source, seed=1)
    assert first == load_prompts(source, seed=1)
    assert first != load_prompts(source, seed=2)
    assert load_prompts(source, num=7, seed=1) == first[:7]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.txt", "", "at least one prompt"),
        ("p.txt", "  \n\n", "at least one prompt"),
        ("p.txt", b"fine\ncaf\xe9\n", "byte 0xe9 at offset 8"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2"),
        ("p.jsonl", '{"prompt": "a"}\n[1]\n', "line 2"),
        ("p.jsonl", '{"prompt": "  "}\n', "line 1"),
        ("p.jsonl", '{"prompt": 3}\n', "line 1"),
    ],
)
def test_broken_files_are_refused_with_the_place(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    source = write(tmp_path / name, content)
    with pytest.raises(PromptFileError, match=says):
        check_source(source)


def test_missing_files_and_unknown_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="must exist"):
        load_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match=r"\.txt or \.jsonl"):
        load_prompts(str(tmp_path / "prompts.csv"))
    with pytest.raises(ConfigError, match="shapes:heldout"):
        load_prompts("shapes:test")


def test_the_world_gives_distinct_prompts_of_both_sorts_at_the_asked_share() -> None:
    found = load_prompts("shapes:train", num=40, thought_share=0.25, seed=3)
    assert len({prompt.id for prompt in found}) == 40
    assert sum(sort_of(prompt) == "thought" for prompt in found) == 10
    assert found == load_prompts("shapes:train", num=40, thought_share=0.25, seed=3)
    assert [sort_of(p) for p in found] != sorted(sort_of(p) for p in found), "not shuffled"


def test_heldout_prompts_are_disjoint_from_training_and_sorted_by_kind() -> None:
    held = load_heldout("shapes:heldout", num_plain=20, num_thought=10, seed=0)
    assert [sort_of(prompt) for prompt in held] == ["plain"] * 20 + ["thought"] * 10
    train = load_prompts("shapes:train", num=200)
    assert not {p.text for p in held} & {p.text for p in train}


def test_heldout_of_a_file_takes_each_sort_from_its_metadata(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "p{i}", "sort": "{"thought" if i % 2 else "plain"}"}}' for i in range(8)]
    held = load_heldout(write(tmp_path / "p.jsonl", "\n".join(lines)), num_plain=3, num_thought=2)
    assert [sort_of(prompt) for prompt in held] == ["plain"] * 3 + ["thought"] * 2
