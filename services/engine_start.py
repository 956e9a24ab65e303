"""How a vLLM engine is started: its environment, its arguments, its process.

vLLM reads its environment when it is first imported, so it is imported here and by an engine that
starts, nowhere at a module's top.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from alphagrpo.errors import ConfigError
from services.settings import EngineSettings

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


def start_engine(arguments: dict[str, Any], stat_loggers: Sequence[Any] = ()) -> Any:
    """vLLM's asynchronous engine, inside the running event loop.

    ``stat_loggers`` are told what the mesh's own is told. Raises ConfigError for arguments that
    vLLM does not know.
    """
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

    return AsyncLLM.from_engine_args(engine_args, stat_loggers=[EngineMetrics, *stat_loggers])
