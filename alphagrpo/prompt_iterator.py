"""Which prompt comes next, and its questions, in an order that only the seed decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from alphagrpo import seeds
from alphagrpo.errors import ConfigError, NoQuestions, PolicyDataError, ServiceError
from alphagrpo.ports import Decomposer
from alphagrpo.retries import Retries
from alphagrpo.turns import Cursor, SkippedTurn, Visit
from alphagrpo.types import Prompt, QuestionSet

log = logging.getLogger(__name__)

Note = Callable[[SkippedTurn], object]


class PromptIterator:
    """Passes over the prompts, each in its own order, decomposing ahead of need.

    Prompt order and visits are functions of the seed and the cursor alone. A prompt of which no
    question can be made is set aside for good. Where a decomposition fails for another reason it is
    tried again after growing pauses; then the turn is put off (:mod:`alphagrpo.turns`). ``accept``
    raises NoQuestions for a set the reward cannot use.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seed: int,
        decomposer: Decomposer,
        *,
        lookahead: int,
        accept: Callable[[QuestionSet], object] = lambda questions: None,
        retries: Retries | None = None,
    ) -> None:
        if not prompts:
            raise ConfigError(
                "a run needs at least one training prompt, got none; check data.train"
            )
        if len({prompt.id for prompt in prompts}) != len(prompts):
            raise ConfigError(
                "prompt ids must be unique, the training set repeats some; rename them"
            )
        self.set_aside: dict[str, str] = {}
        self._prompts = tuple(prompts)
        self._seed = seed
        self._decomposer = decomposer
        self._lookahead, self._accept = lookahead, accept
        self._retries = retries or Retries()
        self._orders: dict[int, tuple[Prompt, ...]] = {}
        self._tasks: dict[int, asyncio.Task[QuestionSet]] = {}

    @property
    def fingerprint(self) -> int:
        """A number that changes with the prompt set; a resumed run must have the same one."""
        return seeds.derive("prompts", *sorted(prompt.id for prompt in self._prompts))

    def at(self, position: int) -> tuple[Prompt, int]:
        """Prompt and visit at ``position``, set-aside prompts included."""
        epoch, index = divmod(position, len(self._prompts))
        if epoch not in self._orders:
            keys = {
                p.id: (seeds.derive("order", self._seed, epoch, p.id), p.id) for p in self._prompts
            }
            recent = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            order = sorted(self._prompts, key=lambda p: keys[p.id])
            self._orders = {**recent, epoch: tuple(order)}
        return self._orders[epoch][index], epoch

    async def stream(
        self, start: Cursor, count: int, note: Note = lambda turn: None
    ) -> AsyncIterator[Visit]:
        """The next ``count`` turns that have questions, from ``start`` on; ``note`` is told of each
        turn between them that has none.

        Raises:
            PolicyDataError: where every prompt is set aside.
            ServiceError: where as many turns in a row failed as there are asked for.
        """
        cursor, num_turns, failures = start, 0, 0
        while num_turns < count:
            self._refuse_none_left()
            if not failures:
                self._ask_failed_again()
            self._prefetch(cursor)
            position, again, cursor = cursor.take(len(self._prompts))
            prompt, visit = self.at(position)
            try:
                questions = await self._questions(position)
            except NoQuestions as error:
                if prompt.id not in self.set_aside:
                    self.set_aside[prompt.id] = str(error)
                    log.warning("prompt %s is set aside: %s", prompt.id, error)
                note(_skipped(prompt, visit, error, put_off=False))
                continue
            except ServiceError as error:
                failures += 1
                end = "is given up" if again else "comes again at the end of its pass"
                log.warning("prompt %s %s: %s", prompt.id, end, error)
                note(_skipped(prompt, visit, error, put_off=not again))
                if failures >= max(count, 2):
                    raise
                cursor = cursor if again else cursor.putting_off([position])
                continue
            num_turns, failures = num_turns + 1, 0
            yield Visit(
                prompt=prompt,
                visit=visit,
                questions=questions,
                position=position,
                again=again,
                after=cursor,
            )

    def _refuse_none_left(self) -> None:
        if len(self.set_aside) == len(self._prompts):
            reason = next(iter(self.set_aside.values()))
            raise PolicyDataError(
                "a run needs prompts with questions, every prompt was set aside "
                f"(the first: {reason}); check the decomposer"
            )

    async def _questions(self, position: int) -> QuestionSet:
        """What was asked for in advance, once. Raises NoQuestions of prompts set aside."""
        task = self._tasks.pop(position, None)
        reason = self.set_aside.get(self.at(position)[0].id)
        if reason is None:
            assert task is not None, "turns are asked for before they are taken"
            return await task
        if task is not None:
            task.cancel()
        raise NoQuestions(reason)

    def _prefetch(self, cursor: Cursor) -> None:
        """Keep ``lookahead`` positions asked for, and ask for as many again in one burst.

        A decomposer that gets 16 prompts together takes a tenth of the time per prompt that it
        takes for one alone (continuous batching): so the queue is filled up when it has run low,
        not by one prompt per turn.
        """
        for position in cursor.due(len(self._prompts)):
            self._ask_for(position)
        position = cursor.position
        needed = range(position, position + self._lookahead + 1)
        if all(ahead in self._tasks or self._is_aside(ahead) for ahead in needed):
            return
        for ahead in range(position, position + 2 * self._lookahead + 1):
            self._ask_for(ahead)

    def _ask_for(self, position: int) -> None:
        if position not in self._tasks and not self._is_aside(position):
            self._ask(position, self._retries.count)

    def _ask_failed_again(self) -> None:
        """What failed ahead of need may be there by now: it has one more attempt, all at once."""
        for position, task in list(self._tasks.items()):
            if task.done() and not task.cancelled() and _is_passing(task.exception()):
                self._ask(position, 0)

    def _ask(self, position: int, retries: int) -> None:
        task = asyncio.create_task(self._decompose(self.at(position)[0], retries))
        task.add_done_callback(_retrieve)
        self._tasks[position] = task

    async def _decompose(self, prompt: Prompt, retries: int) -> QuestionSet:
        """Questions that the reward can use, asked for again while the decomposer fails."""
        for retry in range(retries + 1):
            if retry:
                await self._retries.wait(retry)
            try:
                questions = await self._decomposer.decompose(prompt)
            except ServiceError as error:
                if retry == retries or not _is_passing(error):
                    raise
                log.info("questions of %s, attempt %d: %s", prompt.id, retry + 1, error)
            else:
                self._accept(questions)
                return questions
        raise AssertionError("the last attempt returns or raises")

    def _is_aside(self, position: int) -> bool:
        return self.at(position)[0].id in self.set_aside

    def close(self) -> None:
        """Forget what was asked for in advance."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def state_dict(self) -> dict[str, Any]:
        """JSON state, without the cursor, which the loop keeps."""
        return {"fingerprint": self.fingerprint, "set_aside": dict(self.set_aside)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; ConfigError where the prompt set is another one."""
        if state["fingerprint"] != self.fingerprint:
            raise ConfigError(
                "a resumed run needs the prompts it was started with, got another set; "
                "restore data.train or start a new run"
            )
        self.close()
        self.set_aside = dict(state["set_aside"])


def _retrieve(task: asyncio.Task[QuestionSet]) -> None:
    """Look at a prefetched failure, so that asyncio does not report it as lost."""
    if not task.cancelled():
        task.exception()


def _is_passing(error: BaseException | None) -> bool:
    """Whether a decomposition may be had another time."""
    return isinstance(error, ServiceError) and not isinstance(error, NoQuestions)


def _skipped(prompt: Prompt, visit: int, error: ServiceError, *, put_off: bool) -> SkippedTurn:
    reason = f"{type(error).__name__}: {error}"
    return SkippedTurn(prompt=prompt, visit=visit, reason=reason, put_off=put_off)
