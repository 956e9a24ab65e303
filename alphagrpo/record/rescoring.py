"""Scores a run's recorded samples again: by another judge, by another reward program, or both.

Verdicts are taken from the ledger where they are the judge's own, or where no judge is given;
everything else is asked about the kept picture. What cannot be had is counted, never guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import (
    BadImage,
    ConfigError,
    DeadlineExceeded,
    NoQuestions,
    ServiceError,
    ServiceUnavailable,
)
from alphagrpo.images import decode_image
from alphagrpo.rewards.programs import RewardProgram, asks_the_set, configured_program
from alphagrpo.rewards.rectification import rectify
from alphagrpo.tasks import refinement_of
from alphagrpo.types import Question, QuestionSet, Score, Verdict

if TYPE_CHECKING:
    from alphagrpo.config import RunConfig
    from alphagrpo.ports import Verifier
    from alphagrpo.record.folder import RunFolder

NO_PICTURE = "its picture was not kept"
NO_VERDICTS = "the ledger lacks verdicts that the program needs, and no judge is given"
NO_DRAFT = "its draft could not be scored"
AT_ONCE = 16
"""Pictures in hand at once."""
NO_ANSWER = (ServiceUnavailable, DeadlineExceeded)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredSample:
    """One sample as the run scored it, and as it is scored now."""

    number: int
    reward: float | None
    """What the run's advantage was computed from."""
    score: float | None
    new_reward: float | None = None
    new_score: float | None = None
    reason: str = ""
    """Why there is no new score."""

    @property
    def rewards(self) -> tuple[float, float] | None:
        """Both rewards; None unless there are two."""
        if self.reward is None or self.new_reward is None:
            return None
        return self.reward, self.new_reward


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredGroup:
    """The samples, or the trained drafts, of one group."""

    name: str
    """``STEP/GROUP``, of drafts with ``/d``."""
    task: str
    prompt: str
    samples: tuple[RescoredSample, ...]


class Rescorer:
    """Scores the samples of a run's groups that were trained on."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        program: RewardProgram,
        verifier: Verifier | None = None,
        *,
        reuse: bool = False,
    ) -> None:
        """``verifier`` None scores from the ledger's verdicts alone; ``reuse`` takes those that
        carry the verifier's own name from there too.

        Raises ConfigError for a program that asks the set's questions of a ledger without them.
        """
        if asks_the_set(program) and not asks_the_set(configured_program(config.reward)):
            raise ConfigError(
                f"{program.name} asks the decomposer's questions, the ledger of a run by "
                f"{config.reward.program} has none of them; choose a program that words its own"
            )
        self._folder, self._config, self._program = folder, config, program
        self._verifier, self._reuse = verifier, reuse
        self.judge = ""
        """What the judge calls itself, once it has answered."""
        self._room = asyncio.Semaphore(AT_ONCE)
        self._first = asyncio.Lock()

    async def step(self, step: int) -> list[RescoredGroup]:
        """The step's groups in prompt order.

        Raises ServiceUnavailable or DeadlineExceeded where the judge answers about none of its
        pictures: it would not about those of other steps either.
        """
        stages: dict[tuple[int, str], dict[int, list[Row]]] = {}
        for row in self._folder.ledger(step):
            if row["sample"] is not None:
                samples = stages.setdefault((row["group"], row["stage"]), {})
                samples.setdefault(row["sample"], []).append(row)
        keys = [key for key, samples in stages.items() if _trained(samples)]
        scores = await asyncio.gather(*(self._scores(stages[key]) for key in keys))
        _raise_if_silent([score for group in scores for score in group])
        return [
            await self._group(step, key, stages, group)
            for key, group in zip(keys, scores, strict=True)
        ]

    async def _group(
        self,
        step: int,
        key: tuple[int, str],
        stages: Mapping[tuple[int, str], Mapping[int, list[Row]]],
        scores: Sequence[Score | Exception],
    ) -> RescoredGroup:
        number, stage = key
        heads = [rows[0] for rows in stages[key].values()]
        new: list[Score | Exception] = list(scores)
        draft_score = None
        if stage == "sample" and heads[0]["draft"] is not None:
            drafts = stages.get((number, "draft"), {}).values()
            shown = [rows for rows in drafts if rows[0]["picture"] == heads[0]["draft"]]
            draft = await self._score(shown[0]) if shown else ServiceError(NO_DRAFT)
            draft_score = draft.value if isinstance(draft, Score) else None
            if draft_score is None:
                new = [ServiceError(NO_DRAFT)] * len(heads)
        values = [score.value if isinstance(score, Score) else None for score in new]
        rewards = self._new_rewards(heads, values, draft_score)
        return RescoredGroup(
            name=f"{step}/{number}" + ("/d" if stage == "draft" else ""),
            task=heads[0]["task"],
            prompt=heads[0]["prompt"],
            samples=tuple(
                RescoredSample(
                    number=head["sample"],
                    reward=head["reward"],
                    score=head["score"],
                    new_reward=reward,
                    new_score=value,
                    reason="" if isinstance(score, Score) else _reason(score),
                )
                for head, value, reward, score in zip(heads, values, rewards, new, strict=True)
            ),
        )

    def _new_rewards(
        self, heads: Sequence[Row], values: Sequence[float | None], draft_score: float | None
    ) -> list[float | None]:
        """Rectified as the run did, with the bonus that each sample was given."""
        old = [head["score"] for head in heads]
        new = list(values)
        if draft_score is not None:
            mode = refinement_of(self._config).rectification
            old = rectify(old, heads[0]["draft_score"], mode)
            new = rectify(new, draft_score, mode)
        return [
            None if None in (after, before, head["reward"]) else after + head["reward"] - before
            for head, before, after in zip(heads, old, new, strict=True)
        ]

    async def _scores(self, samples: Mapping[int, list[Row]]) -> list[Score | Exception]:
        return await asyncio.gather(*(self._score(rows) for rows in samples.values()))

    async def _score(self, rows: Sequence[Row]) -> Score | Exception:
        """The new score of a sample, or why there is none."""
        try:
            question_set = self._question_set(rows)
            questions = self._program.questions(question_set)
            verdicts = self._recorded(questions, rows)
            if verdicts is None:
                verdicts = await self._asked(questions, rows)
            score = self._program.score(question_set, verdicts)
        except ServiceError as error:
            return error
        return ServiceError("a verdict is missing") if score is None else score

    def _question_set(self, rows: Sequence[Row]) -> QuestionSet:
        """What the ledger knows of the prompt's questions; which depends on which is not kept."""
        questions = tuple(
            Question(
                id=row["question_id"],
                text=row["question"],
                kind=row["kind"],
                tag=row["tag"],
                form=row["form"],
            )
            for row in rows
            if row["question"] is not None
        )
        own = not asks_the_set(self._program)
        return QuestionSet(
            prompt=rows[0]["prompt"],
            questions=() if own else questions,
            revision="none" if own else rows[0]["questions_revision"] or "",
        )

    def _recorded(
        self, questions: Sequence[Question], rows: Sequence[Row]
    ) -> tuple[Verdict, ...] | None:
        """The ledger's verdicts on all of ``questions``, if they are those that are wanted."""
        if self._verifier is not None and not (self._reuse and self.judge):
            return None
        wanted = None if self._verifier is None else self.judge
        known = {
            (row["question"], row["form"]): row
            for row in rows
            if row["p_yes"] is not None and wanted in (None, row["judge"])
        }
        answers = [known.get((question.text, question.form)) for question in questions]
        if any(row is None for row in answers):
            return None
        return tuple(
            _verdict(question, row)
            for question, row in zip(questions, answers, strict=True)
            if row is not None
        )

    async def _asked(
        self, questions: Sequence[Question], rows: Sequence[Row]
    ) -> tuple[Verdict, ...]:
        if self._verifier is None:
            raise ServiceError(NO_VERDICTS)
        async with self._room:
            png = self._folder.picture(rows[0]["picture"] or "")
            if png is None:
                raise ServiceError(NO_PICTURE)
            verdicts = await self._verifier.verify(decode_image(png), questions)
        self.judge = self.judge or next((verdict.judge for verdict in verdicts), "")
        return verdicts


def _verdict(question: Question, row: Row) -> Verdict:
    # Ledgers of before kept float32; a grade's tenth must be exact.
    p_yes = row["p_yes"] if row["grade"] is None else row["grade"] / 10
    return Verdict(
        question_id=question.id, p_yes=p_yes, judge=row["judge"] or "", grade=row["grade"]
    )


def _trained(samples: Mapping[int, list[Row]]) -> bool:
    """Whether any of a group's samples, or drafts, were trained on."""
    return any(rows[0]["advantage"] is not None for rows in samples.values())


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ServiceError else f"{type(error).__name__}: {error}"


def _raise_if_silent(scores: Sequence[Score | Exception]) -> None:
    silent = [score for score in scores if isinstance(score, NO_ANSWER)]
    answered = any(isinstance(score, Score | NoQuestions | BadImage) for score in scores)
    if silent and not answered:
        raise silent[0]
