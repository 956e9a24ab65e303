"""vLLM as an :class:`alphagrpo.judging.engine.Engine`, on a CPU or a GPU.

Only vLLM's small stable surface is used: ``AsyncLLM.from_engine_args``, its renderer
(:mod:`services.engine_inputs`), ``generate``, ``add_request``, ``abort``, ``errored`` and
``shutdown``; and its stat logger for Ray (:mod:`services.engine_metrics`).
vLLM is imported when an engine is made, after its environment is set, so that this module can be
imported anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import MeshError, ServiceError, ServiceUnavailable
from alphagrpo.judging.engine import ModelInfo, Tokenizer, folder_revision
from services.engine_inputs import EngineInputs, Input
from services.engine_start import engine_arguments, set_environment, start_engine
from services.liveness import Liveness
from services.paths import resolve_model
from services.replica_log import kept_log_file
from services.settings import EngineSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class VllmEngine:
    """One vLLM engine; make it inside the event loop that will use it.

    ``vision``: pictures go in too, one per prompt. ``stat_loggers``: vLLM's, beside the mesh's own.
    Raises CheckpointError for a broken model folder and ConfigError for arguments that vLLM does
    not know.
    """

    def __init__(
        self, settings: EngineSettings, *, vision: bool = False, stat_loggers: Sequence[Any] = ()
    ) -> None:
        started = perf_counter()
        model = resolve_model(settings.model)
        local = Path(model).is_dir()
        revision = folder_revision(Path(model)) if local else ""
        on_cpu = set_environment(settings)
        arguments = engine_arguments(settings, model, on_cpu)
        if vision:
            arguments.setdefault("limit_mm_per_prompt", {"image": 1})
        with kept_log_file():
            self._llm = start_engine(arguments, stat_loggers)
        if not local:
            commit = getattr(self._llm.model_config.hf_config, "_commit_hash", None)
            revision = (commit or "unpinned")[:8]
        self._model = ModelInfo(name=Path(model).name, revision=revision)
        self._tokenizer: Tokenizer = self._llm.get_tokenizer()
        self._inputs = EngineInputs(self._llm)
        self._sampling: dict[tuple[int, ...], Any] = {}
        self._ids = itertools.count()
        self._silence_s = settings.silence_s
        self._liveness = Liveness()
        self._probe: asyncio.Task[None] | None = None
        self.closed = False
        """See :class:`services.watching.Watched`, which this engine is."""
        self.alarm = asyncio.Event()
        log.info("vLLM serves %s after %.1f s", self._model.tag, perf_counter() - started)

    @property
    def model(self) -> ModelInfo:
        """Name and revision of what is served."""
        return self._model

    @property
    def tokenizer(self) -> Tokenizer:
        """The served model's own tokenizer."""
        return self._tokenizer

    async def generate(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        schema: Mapping[str, Any] | None = None,
        choices: Sequence[str] | None = None,
        pixels: NDArray[np.uint8] | None = None,
        image_key: str | None = None,
    ) -> str:
        """See :class:`alphagrpo.judging.engine.Engine`."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structured = None
        if schema is not None:
            structured = StructuredOutputsParams(json=dict(schema), disable_any_whitespace=True)
        elif choices is not None:
            structured = StructuredOutputsParams(choice=list(choices))
        sampling = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            structured_outputs=structured,
        )
        answer = (await self._run(sampling, prompt, pixels, image_key)).outputs[0]
        if choices is not None and answer.finish_reason != "stop":
            # Half a choice may itself be one: "1" of "10".
            raise ServiceError(
                f"an answer must be one whole choice within {max_tokens} tokens, got "
                f"{answer.text!r} cut by {answer.finish_reason}; raise max_tokens"
            )
        return str(answer.text)

    async def score_tokens(
        self,
        prompts: Sequence[str],
        token_ids: Sequence[int],
        *,
        pixels: NDArray[np.uint8],
        image_key: str,
    ) -> list[Mapping[int, float]]:
        """See :class:`alphagrpo.judging.engine.Engine`."""
        sampling = self._scoring(tuple(token_ids))
        with self._mesh_errors(), self._liveness.requests(len(prompts)) as answered:
            inputs = await self._inputs.about(prompts, pixels, image_key)
            return await self._score(inputs, sampling, answered)

    async def _score(
        self, inputs: Sequence[Input], sampling: Any, answered: Callable[[], None]
    ) -> list[Mapping[int, float]]:
        """The scored tokens of every input. One failure, or being cancelled, ends them all."""
        from vllm.v1.engine.exceptions import EngineDeadError

        requests: list[Any] = []
        try:
            for prompt in inputs:
                name = f"r{next(self._ids)}"
                requests.append(await self._llm.add_request(name, prompt, sampling))
            scores = []
            for request in requests:
                scores.append(_log_probs((await request.get()).outputs[0]))
                answered()
            return scores
        except EngineDeadError:
            raise
        except BaseException:
            await self._llm.abort([request.request_id for request in requests], internal=True)
            raise

    def _scoring(self, token_ids: tuple[int, ...]) -> Any:
        """Sampling parameters that score ``token_ids``, made once for all requests."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if token_ids not in self._sampling:
            self._sampling[token_ids] = SamplingParams(
                max_tokens=1,
                temperature=0.0,
                logprob_token_ids=list(token_ids),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                # vLLM adds the model's ends of text to each request's own copy; nothing below the
                # top of it differs between requests, so a shallow one will do.
                skip_clone=True,
            )
        return self._sampling[token_ids]

    async def _run(
        self,
        sampling: Any,
        prompt: str,
        pixels: NDArray[np.uint8] | None = None,
        image_key: str | None = None,
    ) -> Any:
        """The final output of one request; mesh errors for a dead engine or refused input."""
        output = None
        with self._mesh_errors(), self._liveness.requests():
            rendered = await self._inputs.one(prompt, pixels, image_key)
            name = f"r{next(self._ids)}"
            async for partial in self._llm.generate(rendered, sampling, name):
                output = partial
                self._liveness.heard()
        return output

    @contextlib.contextmanager
    def _mesh_errors(self) -> Iterator[None]:
        """vLLM's errors as the mesh's; a dead engine raises the alarm."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        if self.closed:
            raise ServiceUnavailable(
                f"the engine of {self._model.tag} must be running and was shut down; ask another "
                "replica"
            )
        try:
            yield
        except MeshError:
            raise
        except EngineDeadError as error:
            self.alarm.set()
            raise ServiceUnavailable(
                f"the engine of {self._model.tag} must be alive, vLLM says: {error!r}; its replica "
                "is being replaced, see its log for the cause"
            ) from None
        except (ValueError, VLLMClientError) as error:
            raise ServiceError(
                f"the engine of {self._model.tag} refused a request: {error}; shorten the prompt "
                "or raise max_model_len"
            ) from None
        except Exception as error:
            raise ServiceError(
                f"the engine of {self._model.tag} must answer every request, one failed with "
                f"{error.__cause__ or error!r}; see the replica's log"
            ) from None

    def failure(self) -> str | None:
        """Why this engine can answer nothing any more: it is dead, or silent although it has work.

        None while it is well, and once it was shut down. An idle engine is given work.
        """
        if self.closed:
            return None
        if self._llm.errored:
            return f"the engine of {self._model.tag} is dead, see its log for the cause"
        silent_s = self._liveness.silent_s()
        if silent_s > self._silence_s:
            return (
                f"the engine of {self._model.tag} has work and has put out nothing for "
                f"{silent_s:.0f} s, engine.silence_s is {self._silence_s:g}"
            )
        if self._liveness.probe_due and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._ask_for_a_token())
        return None

    async def _ask_for_a_token(self) -> None:
        from vllm import SamplingParams

        with contextlib.suppress(ServiceError):  # of a dead one; a silent one leaves it waiting
            await self._run(SamplingParams(max_tokens=1, temperature=0.0), "?")

    async def check_health(self) -> None:
        """Raises ServiceUnavailable where :meth:`failure` has a reason."""
        if reason := self.failure():
            raise ServiceUnavailable(f"{reason}; its replica must be replaced")

    def shutdown(self) -> None:
        """Stop the engine's process; later calls raise ServiceUnavailable."""
        self.closed = True
        self._llm.shutdown()


def _log_probs(answer: Any) -> Mapping[int, float]:
    """The scored tokens of one answer of vLLM's; ServiceError where it has none."""
    if answer.finish_reason == "error":
        raise ServiceUnavailable(
            "the engine must answer every request, vLLM gave one back as an error that may pass; "
            "ask again, and see the replica's log if it does not pass"
        )
    if not answer.logprobs:
        raise ServiceError(
            "vLLM must return log-probabilities for logprob_token_ids, got none; this needs "
            "vLLM 0.29 or newer"
        )
    return {token: float(entry.logprob) for token, entry in answer.logprobs[0].items()}
