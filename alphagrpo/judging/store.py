"""The question store: a folder with one JSON file per question set, that people may read and edit.

The same prompt under the same decomposition revision has the same questions in every run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from alphagrpo.errors import ConfigError, NoQuestions
from alphagrpo.files import write_atomically
from alphagrpo.judging.questions import checked, questions_from_records, questions_to_records
from alphagrpo.types import QuestionSet


def store_key(prompt: str, revision: str) -> str:
    """sha256 over the prompt's text and ``<program>@<model revision>``, hex."""
    return hashlib.sha256(f"{revision}\n{prompt}".encode()).hexdigest()


class QuestionStore:
    """Question sets in ``folder``, which is created when first written to.

    Files are replaced whole, so that a reader never sees half of one; several processes may share
    a folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def path(self, prompt: str, revision: str) -> Path:
        """Where this prompt's questions are kept."""
        return self.folder / f"{store_key(prompt, revision)}.json"

    def get(self, prompt: str, revision: str) -> QuestionSet | None:
        """The kept set, or None. Raises ConfigError for a file that was edited into nonsense."""
        path = self.path(prompt, revision)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"a stored question set is UTF-8, {path} is not ({error}); save it as UTF-8"
            ) from error
        kept = _parse(text, path)
        if kept.prompt != prompt or kept.revision != revision:
            raise ConfigError(
                f"{path} must be about prompt {prompt!r} at {revision}, got {kept.prompt!r} at "
                f"{kept.revision}; undo the change, or delete the file to have it written again"
            )
        return kept

    def put(self, questions: QuestionSet) -> Path:
        """Keep a set, over one that was there. Raises NoQuestions for one that cannot be used."""
        checked(questions.questions)
        path = self.path(questions.prompt, questions.revision)
        record = {
            "prompt": questions.prompt,
            "revision": questions.revision,
            "questions": questions_to_records(questions.questions),
        }
        write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return path


def _parse(text: str, path: Path) -> QuestionSet:
    try:
        record: dict[str, Any] = json.loads(text)
        return QuestionSet(
            prompt=str(record["prompt"]),
            questions=checked(questions_from_records(record["questions"])),
            revision=str(record["revision"]),
        )
    except (NoQuestions, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"missing or wrong: {error}"
        raise ConfigError(
            f"{path} must hold a question set (prompt, revision, questions with id, text, kind, "
            f"tag), and does not: {reason}; fix the file, or delete it to have it written again"
        ) from error
