"""Which prompt comes next, and its questions, in an order that only the seed decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alphagrpo import seeds
from alphagrpo.errors import ConfigError, NoQuestions, PolicyDataError, ServiceError
from alphagrpo.ports import Decomposer
from alphagrpo.types import Prompt, QuestionSet

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One turn of one prompt."""

    prompt: Prompt
    visit: int
    """How often the prompt came before: the number of the pass over the prompt set."""
    questions: QuestionSet
    next_position: int
    """Where the iterator goes on after this turn."""


class PromptIterator:
    """Passes over the prompts, each in its own order, decomposing ahead of need.

    Prompt order and visits are functions of the seed and the position alone. A prompt of which no
    question can be made is set aside for good; one whose decomposition failed for another reason
    is left out of this pass only. ``accept`` raises NoQuestions for a set the reward cannot use.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seed: int,
        decomposer: Decomposer,
        *,
        lookahead: int,
        accept: Callable[[QuestionSet], object] = lambda questions: None,
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

    async def stream(self, start: int, count: int) -> AsyncIterator[Visit]:
        """The next ``count`` turns that have questions, from ``start`` on.

        Raises:
            PolicyDataError: where every prompt is set aside.
            ServiceError: where as many decompositions in a row failed as there are turns asked for.
        """
        position, num_turns, failures = start, 0, 0
        while num_turns < count:
            if len(self.set_aside) == len(self._prompts):
                reason = next(iter(self.set_aside.values()))
                raise PolicyDataError(
                    "a run needs prompts with questions, every prompt was set aside "
                    f"(the first: {reason}); check the decomposer"
                )
            prompt, visit = self.at(position)
            self._prefetch(position)
            task = self._tasks.pop(position, None)
            position += 1
            if task is None:
                continue
            try:
                questions = await task
                self._accept(questions)
            except NoQuestions as error:
                self.set_aside[prompt.id] = str(error)
                log.warning("prompt %s is set aside: %s", prompt.id, error)
                continue
            except ServiceError as error:
                failures += 1
                log.warning("prompt %s is left out of this pass: %s", prompt.id, error)
                if failures >= max(count, 2):
                    raise
                continue
            num_turns, failures = num_turns + 1, 0
            yield Visit(prompt=prompt, visit=visit, questions=questions, next_position=position)

    def _prefetch(self, position: int) -> None:
        """Keep ``lookahead`` positions asked for, and ask for as many again in one burst.

        A decomposer that gets 16 prompts together takes a tenth of the time per prompt that it
        takes for one alone (continuous batching): so the queue is filled up when it has run low,
        not by one prompt per turn.
        """
        needed = range(position, position + self._lookahead + 1)
        if all(ahead in self._tasks or self._is_aside(ahead) for ahead in needed):
            return
        for ahead in range(position, position + 2 * self._lookahead + 1):
            if ahead not in self._tasks and not self._is_aside(ahead):
                task = asyncio.create_task(self._decomposer.decompose(self.at(ahead)[0]))
                task.add_done_callback(_retrieve)
                self._tasks[ahead] = task

    def _is_aside(self, position: int) -> bool:
        return self.at(position)[0].id in self.set_aside

    def close(self) -> None:
        """Forget what was asked for in advance."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def state_dict(self) -> dict[str, Any]:
        """JSON state, without the position, which the loop keeps."""
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
