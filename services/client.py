"""Clients of the decomposer and the verifier: the ports, over Serve handles or a gateway.

``connect_verifier`` and ``connect_decomposer`` take JSON values only, so that a composition root
can hand ``"services.client:connect_verifier"`` and their arguments to an actor, which then needs
no import of this package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import ServiceError
from alphagrpo.images import check_pixels, encode_png_base64
from alphagrpo.judging.questions import questions_from_records, questions_to_records
from alphagrpo.judging.store import QuestionStore
from alphagrpo.types import Prompt, Question, QuestionSet, Verdict
from services import raw_picture
from services.bundles import Bundles
from services.caller import CALLER
from services.retry import CallPolicy, CallStats, PatientCaller
from services.transport import (
    HandleTransport,
    HttpTransport,
    Transport,
    answer_error,
    is_retryable,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from services.raw_picture import Asked

Verdicts = tuple[Verdict, ...]


class VerifierClient:
    """:class:`alphagrpo.ports.Verifier` over Serve handles or a gateway.

    Pictures that are asked about in one turn of the event loop go in calls of a few; each has its
    own deadline, its own attempts and its own error.
    """

    def __init__(self, transport: Transport, policy: CallPolicy | None = None) -> None:
        self._transport = transport
        self._caller = PatientCaller("verifier", policy or CallPolicy(), is_retryable)
        self._bundles: Bundles[Asked, Verdicts] = Bundles(
            self._send,
            lambda asked: int(asked[0].nbytes),
            most=raw_picture.MOST_PICTURES,
            most_bytes=raw_picture.MOST_BYTES,
        )

    @property
    def stats(self) -> CallStats:
        """Calls, retries and latency so far; each picture's is one of its own."""
        return self._caller.stats

    async def verify(
        self, pixels: NDArray[np.uint8], questions: Sequence[Question]
    ) -> tuple[Verdict, ...]:
        """One verdict per question, in order, about ``pixels`` uint8 [H, W, 3].

        Raises BadImage before anything is sent; ServiceUnavailable, DeadlineExceeded or
        ServiceError where not every verdict could be had.
        """
        check_pixels(pixels)
        if not questions:
            return ()
        asked = (pixels, tuple(questions))
        verdicts = await self._caller.call(lambda: self._bundles.ask(asked, CALLER.get()))
        if [verdict.question_id for verdict in verdicts] != [q.id for q in questions]:
            raise ServiceError(
                "a verifier gives one verdict per question in order, got "
                f"{[verdict.question_id for verdict in verdicts]} for {[q.id for q in questions]}"
            )
        return verdicts

    async def _send(self, asked: list[Asked]) -> Sequence[Verdicts | Exception]:
        transport = self._transport
        if isinstance(transport, HttpTransport):
            return await _over_http(transport, asked)
        if len(asked) == 1:
            return [tuple(await transport.call("verify", *asked[0]))]
        answers = await transport.call("verify_all", asked)
        return [each if isinstance(each, Exception) else tuple(each) for each in answers]

    async def info(self) -> Mapping[str, Any]:
        """Name and revision of the judge. Raises as :meth:`verify`."""
        return dict(await self._caller.call(lambda: self._transport.call("info")))


async def _over_http(
    transport: HttpTransport, asked: list[Asked]
) -> Sequence[Verdicts | Exception]:
    if sum(pixels.nbytes for pixels, _ in asked) > raw_picture.MOST_BYTES:
        ((pixels, questions),) = asked
        records = questions_to_records(questions)
        body = {"image": encode_png_base64(pixels), "questions": records}
        answers = [await transport.call("verify", body)]
    else:
        packed = raw_picture.pack(asked)
        sent = await transport.post_bytes("verify/pixels", packed, raw_picture.MEDIA_TYPE)
        answers = sent["answers"]
    return [
        answer_error(answer["error"])
        if answer.get("error")
        else tuple(Verdict(**verdict) for verdict in answer["verdicts"])
        for answer in answers
    ]


class DecomposerClient:
    """:class:`alphagrpo.ports.Decomposer`: asks the question store first, the service second."""

    def __init__(
        self,
        transport: Transport,
        policy: CallPolicy | None = None,
        store: QuestionStore | None = None,
    ) -> None:
        self._transport, self._store = transport, store
        self._caller = PatientCaller("decomposer", policy or CallPolicy(), is_retryable)
        self._tasks: dict[str, asyncio.Task[QuestionSet]] = {}
        self._revision: str | None = None
        self.store_hits = 0

    @property
    def stats(self) -> CallStats:
        """Calls, retries and latency so far; store hits are no calls."""
        return self._caller.stats

    async def decompose(self, prompt: Prompt) -> QuestionSet:
        """Questions of ``prompt``; the same prompt asked twice at once is sent once.

        Raises NoQuestions with the reason, ServiceUnavailable, DeadlineExceeded, and ConfigError
        for a stored set that a person has edited into something unusable.
        """
        task = self._tasks.get(prompt.text)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            task = asyncio.create_task(self._ask(prompt.text))
            self._tasks[prompt.text] = task
            task.add_done_callback(lambda _: self._tasks.pop(prompt.text, None))
        # Shielded: one caller that gives up must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, text: str) -> QuestionSet:
        if self._store is not None:
            stored = self._store.get(text, await self.revision())
            if stored is not None:
                self.store_hits += 1
                return stored
        question_set = await self._caller.call(lambda: self._send(text))
        if self._store is not None:
            self._store.put(question_set)
        return question_set

    async def _send(self, text: str) -> QuestionSet:
        if not isinstance(self._transport, HttpTransport):
            answer: QuestionSet = await self._transport.call("decompose", text)
            return answer
        record = await self._transport.call("decompose", {"prompt": text})
        return QuestionSet(
            prompt=text,
            questions=questions_from_records(record["questions"]),
            revision=record["revision"],
        )

    async def revision(self) -> str:
        """``<program>@<model revision>`` of the service, asked once."""
        if self._revision is None:
            self._revision = str((await self.info())["revision"])
        return self._revision

    async def info(self) -> Mapping[str, Any]:
        """Program, model and revision of the service. Raises as :meth:`decompose`."""
        return dict(await self._caller.call(lambda: self._transport.call("info")))


def _transport(service: str, app: str, url: str | None, token: str | None, run: str) -> Transport:
    if url is None:
        return HandleTransport(app, run)
    return HttpTransport(service, url, token, run=run)


def connect_verifier(
    *,
    app: str = "verifier",
    url: str | None = None,
    token: str | None = None,
    run: str = "",
    **patience: Any,
) -> VerifierClient:
    """A verifier client; nothing is contacted before the first call.

    ``url`` names a gateway of another cluster instead of the Serve application ``app`` of this one.
    ``run``: the run it asks for, in the service's metrics. ``patience`` holds settings of
    :class:`alphagrpo.config.services.Patience`.
    """
    return VerifierClient(_transport("verifier", app, url, token, run), CallPolicy.of(**patience))


def connect_decomposer(
    *,
    app: str = "decomposer",
    url: str | None = None,
    token: str | None = None,
    question_store: str | None = None,
    run: str = "",
    **patience: Any,
) -> DecomposerClient:
    """A decomposer client over the store in folder ``question_store`` (None: no store).

    The other arguments are those of :func:`connect_verifier`.
    """
    store = QuestionStore(Path(question_store)) if question_store else None
    transport = _transport("decomposer", app, url, token, run)
    return DecomposerClient(transport, CallPolicy.of(**patience), store)
