"""vLLM as an :class:`alphagrpo.judging.engine.Engine`, on a CPU or a GPU.

Only vLLM's small stable surface is used: ``AsyncLLM.from_engine_args``, its renderer, ``generate``,
``errored`` and ``shutdown``; and its stat logger for Ray (:mod:`services.engine_metrics`).
vLLM is imported when an engine is made, after its environment is set, so that this module can be
imported anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from alphagrpo.errors import ConfigError, ServiceError, ServiceUnavailable
from alphagrpo.judging.engine import ModelInfo, Tokenizer, folder_revision
from services.liveness import Liveness
from services.paths import resolve_model
from services.replica_log import kept_log_file
from services.settings import EngineSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

CPU_BLOCK = 32
"""Tokens of a cache block; vLLM's CPU attention takes multiples of 32."""


def set_environment(settings: EngineSettings) -> bool:
    """Set what vLLM reads from the environment, before its first import. Returns: on a CPU?"""
    on_cpu = settings.device == "cpu"
    if settings.device == "auto":
        import torch

        on_cpu = not torch.cuda.is_available()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if on_cpu:
        os.environ.update(
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            # AsyncLLM has its engine process either way; with 1, vLLM puts a third process behind.
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            OMP_NUM_THREADS=str(settings.threads),
            ONEDNN_PRIMITIVE_CACHE_CAPACITY=str(settings.kernel_cache),
            # Compiling one small function for log-probabilities takes vLLM up to 18 s on a CPU,
            # during the first request; run eagerly it costs nothing that can be measured.
            TORCHDYNAMO_DISABLE="1",
            # Two malloc arenas instead of eight per core save memory in a process of many threads.
            MALLOC_ARENA_MAX="2",
            HF_HUB_OFFLINE="1",
        )
    return on_cpu


def engine_arguments(settings: EngineSettings, model: str, on_cpu: bool) -> dict[str, Any]:
    """vLLM's engine arguments for ``settings``."""
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "generation_config": "vllm",
        "mm_processor_cache_gb": settings.mm_cache_mib / 1024,
    }
    if settings.tensor_parallel_size == 1:
        arguments["distributed_executor_backend"] = "uni"
    if on_cpu:
        arguments |= {
            "enforce_eager": True,
            "block_size": CPU_BLOCK,
            "kv_cache_memory_bytes": settings.kv_cache_mib << 20,
            "skip_mm_profiling": True,
        }
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return arguments | settings.options


class VllmEngine:
    """One vLLM engine; make it inside the event loop that will use it.

    ``vision``: pictures go in too, one per prompt. Raises CheckpointError for a broken model
    folder and ConfigError for arguments that vLLM does not know.
    """

    def __init__(self, settings: EngineSettings, *, vision: bool = False) -> None:
        started = perf_counter()
        model = resolve_model(settings.model)
        local = Path(model).is_dir()
        revision = folder_revision(Path(model)) if local else ""
        on_cpu = set_environment(settings)
        arguments = engine_arguments(settings, model, on_cpu)
        if vision:
            arguments.setdefault("limit_mm_per_prompt", {"image": 1})
        with kept_log_file():
            self._llm = _start(arguments)
        if not local:
            commit = getattr(self._llm.model_config.hf_config, "_commit_hash", None)
            revision = (commit or "unpinned")[:8]
        self._model = ModelInfo(name=Path(model).name, revision=revision)
        self._tokenizer: Tokenizer = self._llm.get_tokenizer()
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
        answer = (await self._run(_request(prompt, pixels, image_key), sampling)).outputs[0]
        if choices is not None and answer.finish_reason != "stop":
            # Half a choice may itself be one: "1" of "10".
            raise ServiceError(
                f"an answer must be one whole choice within {max_tokens} tokens, got "
                f"{answer.text!r} cut by {answer.finish_reason}; raise max_tokens"
            )
        return str(answer.text)

    async def score_tokens(
        self,
        prompt: str,
        token_ids: Sequence[int],
        *,
        pixels: NDArray[np.uint8],
        image_key: str,
    ) -> Mapping[int, float]:
        """See :class:`alphagrpo.judging.engine.Engine`."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=list(token_ids), detokenize=False
        )
        output = await self._run(_request(prompt, pixels, image_key), sampling)
        log_probs = output.outputs[0].logprobs
        if not log_probs:
            raise ServiceError(
                "vLLM must return log-probabilities for logprob_token_ids, got none; this needs "
                "vLLM 0.29 or newer"
            )
        return {token: float(entry.logprob) for token, entry in log_probs[0].items()}

    async def _run(self, request: dict[str, Any], sampling: Any) -> Any:
        """The final output of one request; mesh errors for a dead engine or refused input."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if self.closed:
            raise ServiceUnavailable(
                f"the engine of {self._model.tag} must be running and was shut down; ask another "
                "replica"
            )
        output = None
        try:
            with self._liveness.request():
                prompt = await self._render(request)
                async for partial in self._llm.generate(prompt, sampling, f"r{next(self._ids)}"):
                    output = partial
                    self._liveness.heard()
        except EngineDeadError as error:
            self.alarm.set()
            raise ServiceUnavailable(
                f"the engine of {self._model.tag} must be alive, vLLM says: {error!r}; its replica "
                "is being replaced, see its log for the cause"
            ) from None
        except EngineGenerateError as error:
            raise ServiceError(
                f"the engine of {self._model.tag} must answer every request, one failed with "
                f"{error.__cause__ or error!r}; see the replica's log"
            ) from None
        except ValueError as error:
            raise ServiceError(
                f"the engine of {self._model.tag} refused a request: {error}; shorten the prompt "
                "or raise max_model_len"
            ) from None
        return output

    async def _render(self, request: dict[str, Any]) -> Any:
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        parsed = parse_model_prompt(self._llm.model_config, request)
        (prompt,) = await self._llm.renderer.render_cmpl_async([parsed])
        return prompt

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
            await self._run({"prompt": "?"}, SamplingParams(max_tokens=1, temperature=0.0))

    async def check_health(self) -> None:
        """Raises ServiceUnavailable where :meth:`failure` has a reason."""
        if reason := self.failure():
            raise ServiceUnavailable(f"{reason}; its replica must be replaced")

    def shutdown(self) -> None:
        """Stop the engine's process; later calls raise ServiceUnavailable."""
        self.closed = True
        self._llm.shutdown()


def _request(
    prompt: str, pixels: NDArray[np.uint8] | None, image_key: str | None
) -> dict[str, Any]:
    """vLLM's form of a prompt, with its picture [H, W, 3] where it has one."""
    if pixels is None:
        return {"prompt": prompt}
    from PIL import Image

    return {
        "prompt": prompt,
        "multi_modal_data": {"image": Image.fromarray(pixels)},
        # With a name vLLM need not hash the picture, and prepares and encodes it once.
        "multi_modal_uuids": {"image": image_key},
    }


def _start(arguments: dict[str, Any]) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        engine_args = AsyncEngineArgs(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"engine options must be arguments of this vLLM, got {sorted(arguments)}: {error}; "
            "fix engine.options in the Serve config"
        ) from None
    # Imported here: it imports vLLM, whose environment is set by now.
    from services.engine_metrics import EngineMetrics

    return AsyncLLM.from_engine_args(engine_args, stat_loggers=[EngineMetrics])
