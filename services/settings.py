"""The ``args`` of the Serve applications; unknown keys are refused."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from alphagrpo.config.sampling import Section
from alphagrpo.config.services import Count, Patience, Seconds
from alphagrpo.config.variables import expand_variables
from alphagrpo.errors import ConfigError
from alphagrpo.judging.decomposition import ProgramName
from alphagrpo.judging.templates import TemplateName
from services.caller import RUN_NAME

_T = TypeVar("_T", bound=Section)


class EngineSettings(Section):
    """One vLLM engine."""

    model: str
    """Folder relative to the project root, absolute folder, or hub id."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    dtype: str = "auto"
    max_model_len: int | None = Field(None, ge=16)
    max_num_seqs: int = Field(64, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=16)
    threads: int = Field(1, ge=1)
    """OpenMP threads of the engine on a CPU."""
    kv_cache_mib: int = Field(64, ge=1)
    """On a CPU; a GPU takes ``gpu_memory_utilization`` of its memory."""
    mm_cache_mib: int = Field(64, ge=0)
    """Preprocessed pictures kept in the engine, each prepared once for all its questions. It grows
    by them until it is full: 27 KB for one of 48 x 48, 3 MB for one of 512 x 512.
    """
    kernel_cache: int = Field(64, ge=0)
    """Products that oneDNN keeps compiled on a CPU, each for one number of tokens in a batch. By
    its own default of 1024 an engine's process grows by 400 MiB in the first hour of a run.
    """
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    tensor_parallel_size: int = Field(1, ge=1)
    silence_s: float = Field(120.0, ge=30)
    """Seconds an engine with work may put out nothing, not a token of any request, before it is
    taken for hung and its replica ends itself. Longer than its longest prefill.
    """
    options: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments by their own names; they win over all above."""


class DecomposerSettings(Section):
    """``args`` of the decomposer application."""

    engine: EngineSettings
    program: ProgramName = "dsg"
    template: TemplateName = "auto"
    max_tokens: int = Field(2048, ge=16)
    max_attempts: int | None = Field(None, ge=1)
    max_prompt_chars: int = Field(2000, ge=1)
    max_semantic: int = Field(40, ge=1)
    """Most semantic questions of one set, for the program ``single``."""
    max_quality: int = Field(20, ge=1)
    max_question_chars: int = Field(300, ge=8)


class VerifierSettings(Section):
    """``args`` of the verifier application."""

    engine: EngineSettings
    template: TemplateName = "auto"
    warm_first: bool = False
    """Ask one question alone before the rest; vLLM shares a picture's prefix without it."""
    cache_size: int = Field(20_000, ge=0)
    """Answers kept per replica, some 400 bytes each: those of a group that is asked about again."""
    max_questions: int = Field(256, ge=1)
    max_question_chars: int = Field(1000, ge=1)


class GeneratorSettings(Section):
    """``args`` of the generator application."""

    config: str
    """Run config (YAML), relative to the project root: model, size, guidance, services, reward."""
    overrides: list[str] = Field(default_factory=list)
    """``a.b=c``, as ``alphagrpo train --set``."""
    weights: str | None = None
    """Folder of a run, whose newest checkpoint is followed, or of one checkpoint; None: the model
    as it is. ``user_config: {weights: ...}`` changes it while requests go on.
    """
    poll_s: float = Field(5.0, gt=0)
    """Seconds between looks for a newer checkpoint."""
    max_rounds: int = Field(2, ge=0, le=8)
    max_prompt_chars: int = Field(2000, ge=1)
    max_image_bytes: int = Field(8 << 20, ge=64)
    max_image_pixels: int = Field(4096 * 4096, ge=64)
    max_batch: int = Field(8, ge=1)
    """Pictures drawn together."""
    max_queued: int = Field(32, ge=1)
    """Pictures that may wait in one replica; more are refused with 429."""
    deadline_s: float = Field(300.0, gt=0)


class CallerSettings(Section):
    """One caller of a gateway: a job, a team, a cluster."""

    name: str = Field(pattern=RUN_NAME.pattern)
    """Shown in metrics as ``caller``."""
    token_variable: str = Field(min_length=1)
    """Environment variable that holds its bearer token."""
    max_concurrency: Count | None = None
    """Its requests at once, of the gateway's ``max_concurrency``; None: an equal share of what the
    callers with a number of their own leave.
    """
    requests_per_minute: Count | None = None
    """None: as many as it can send."""


class GatewaySettings(Patience):
    """``args`` of the gateway application.

    Its patience with decomposer and verifier differs from a run's: a person waits behind it, who
    would rather wait for a replica to start than ask again, and several callers share it.
    ``max_concurrency`` is also how many HTTP requests are taken at once, so that none of those
    taken waits for a call of another.
    """

    decomposer_app: str = "decomposer"
    verifier_app: str = "verifier"
    generator_app: str | None = None
    """None: this gateway offers no ``/v1/generate``."""
    token_variable: str | None = None
    """Environment variable that holds the bearer token callers must send; None: no token, which is
    refused where Serve listens on more than loopback.
    """
    callers: tuple[CallerSettings, ...] = ()
    """Instead of ``token_variable``: callers with a token, a share of places and a rate each, so
    that none takes another's place. They hold for each replica of the gateway.
    """
    reward_program: str = "dvreward"
    max_body_bytes: int = Field(12 << 20, ge=1024)
    max_image_bytes: int = Field(8 << 20, ge=64)
    max_image_pixels: int = Field(4096 * 4096, ge=64)
    max_questions: int = Field(256, ge=1)
    max_concurrency: Count = 64
    deadline_s: Seconds = 180.0

    @property
    def asks_for_a_token(self) -> bool:
        """Whether callers need one."""
        return self.token_variable is not None or bool(self.callers)

    @model_validator(mode="after")
    def _callers_have_room(self) -> Self:
        if self.callers and self.token_variable is not None:
            raise ValueError("token_variable is for one caller, callers are given too; leave it")
        names = [caller.name for caller in self.callers]
        if len(set(names)) < len(names):
            raise ValueError("callers have names of their own; rename one")
        places = sum(caller.max_concurrency or 1 for caller in self.callers)
        if places > self.max_concurrency:
            raise ValueError(
                f"the callers' max_concurrency, at least 1 each, add up to at most the gateway's, "
                f"{self.max_concurrency}, they add up to {places}; raise it or lower theirs"
            )
        return self


def parse_settings(kind: type[_T], args: dict[str, Any], app: str) -> _T:
    """``args`` of application ``app`` as settings, environment variables of this node put in.

    Raises ConfigError naming every wrong key.
    """
    try:
        return kind.model_validate(expand_variables(args, f"the args of {app!r}"))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in issue['loc']) or 'args'}: {issue['msg']}, "
            f"got {issue['input']!r}"
            for issue in error.errors()
        ]
        raise ConfigError(
            f"the args of Serve application {app!r} are not valid; fix its Serve config:\n  "
            + "\n  ".join(lines)
        ) from None
