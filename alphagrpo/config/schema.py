"""One YAML file describes a run. Unknown keys and impossible combinations are refused here.

Imports neither torch nor ray, so that a config can be checked anywhere in a blink.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from alphagrpo.config.algorithm import AlgorithmConfig
from alphagrpo.config.deadlines import DeadlineConfig
from alphagrpo.config.learning import LearnerConfig
from alphagrpo.config.optimization import OptimizerConfig
from alphagrpo.config.placement import PlacementConfig
from alphagrpo.config.programs import ASKING_THE_SET, BUILT_IN_PROGRAMS, check_program_name
from alphagrpo.config.refinement import RefinementConfig
from alphagrpo.config.retrying import PauseConfig
from alphagrpo.config.running import EvaluationConfig, TrainingConfig
from alphagrpo.config.sampling import (
    FlowConfig,
    GuidanceConfig,
    SamplingParams,
    Section,
    WindowConfig,
)
from alphagrpo.config.services import ServiceConfig
from alphagrpo.config.watch import WatchConfig
from alphagrpo.options import Aggregate, Kinds, Thinking, TrainKind, WeightType
from alphagrpo.shipped import locate

__all__ = ["FlowConfig", "GuidanceConfig", "RunConfig", "SamplingParams", "Section", "WindowConfig"]


class LoraConfig(Section):
    """Low-rank adapters on q, k, v, o, gate, up, down of both experts (AlphaGRPO: r 32, alpha
    64).
    """

    rank: int = Field(32, ge=1)
    alpha: float = Field(64.0, gt=0)


class ModelConfig(Section):
    """The policy's checkpoint and which of its parameters train."""

    path: Path
    """Folder in the official BAGEL layout."""
    dtype: WeightType = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trainable: TrainKind = "lora"
    """``experts`` trains every decoder-layer weight of both experts; all else is frozen."""
    lora: LoraConfig = LoraConfig()
    attention: Literal["auto", "efficient", "math"] = "auto"
    """``auto``: on a GPU cuDNN's kernel for long blocks and the memory-efficient one for short ones
    (docs/gpu.md). The others are for a card on which ``auto`` is found not to repeat itself.
    """

    @property
    def folder(self) -> Path:
        """Where :attr:`path` lies on the machine that asks: there, or among what is shipped."""
        return locate(self.path)


class TaskConfig(Section):
    """What one trajectory is."""

    kind: Literal["rt2i", "srr", "mixed"] = "rt2i"
    """``rt2i``: reasoning text-to-image, think, then draw. ``srr``: self-reflective refinement, see
    the section ``refinement``. ``mixed``: both, ``refinement.share`` of the prompts refined.
    """
    think: bool = True
    system_prompt: str
    """Read before what is thought about; asks for a plan inside <think></think>. Not read where
    nothing is thought.
    """
    max_think_tokens: int = Field(1024, ge=4)
    height: int = Field(512, ge=16)
    width: int = Field(512, ge=16)


class RolloutConfig(Section):
    """How groups are sampled; ``text`` and ``flow`` are those of text-to-image trajectories."""

    group_size: int = Field(14, ge=2)
    prompts_per_step: int = Field(32, ge=1)
    num_runners: int = Field(1, ge=1)
    cpus_per_runner: float = Field(1.0, ge=0)
    gpus_per_runner: float = Field(0.0, ge=0)
    threads: int = Field(1, ge=1)
    """torch threads in each runner and in the learner: the same in both, or bits differ."""
    thinking: Thinking = "auto"
    """How thoughts are sampled: ``auto`` by CUDA graphs on a GPU, token by token on a CPU;
    ``static`` in the same buffers without graphs; ``eager`` token by token everywhere.
    """
    groups_in_flight: int = Field(2, ge=1)
    """Groups per runner at once: one is sampled while the others are being scored."""
    slices: int = Field(1, ge=1)
    """Runners that a group's samples are split over, for steps of fewer groups than there are
    runners. Statistics stay the group's; a slice is replayed as it was sampled.
    """
    max_lag: int = Field(0, ge=0)
    """How many versions a group's policy may be behind the learner's. Above 0, so many further
    steps are drawn ahead of the one that is learnt, and ratios no longer begin at 1: after one
    optimizer step the image clip of 1e-5 takes the gradient from 35 to 49 % of the image terms
    (measured), unless ``algorithm.lag`` is ``importance``.
    """
    max_retries: int = Field(3, ge=0)
    """Further attempts at a group with too few scores, and at a prompt's questions; also how often,
    beyond the number of runners, a group may lose its runner.
    """
    pause: PauseConfig = PauseConfig()
    """Before each further attempt at scores or questions."""
    text: SamplingParams = SamplingParams()
    flow: FlowConfig = FlowConfig()

    @property
    def kept_versions(self) -> int:
        """Versions of weights that stay published: the newest, and the one that a slow runner may
        still be fetching; with lag as many more.
        """
        return 2 + self.max_lag


class RewardConfig(Section):
    """From verdicts to rewards."""

    program: Annotated[str, AfterValidator(check_program_name)] = "dvreward"
    """A built-in reward program, or a class as ``package.module:Class``; see docs/rewards.md."""
    aggregate: Aggregate = "geometric"
    kinds: Kinds = "all"
    """``semantic`` leaves quality questions unasked; the reward is then the semantic mean."""
    format_bonus: float = Field(1.0, ge=0)
    """Added where the text starts with <think> and ends with </think>."""
    min_valid_share: float = Field(0.5, gt=0, le=1)
    """A group with a smaller share of scored samples is sampled again."""
    max_invalid_share: float = Field(0.2, gt=0, le=1)
    """A step with a larger share of samples without a score stops the run."""

    @model_validator(mode="after")
    def _has_kinds(self) -> RewardConfig:
        if self.kinds == "semantic" and self.program in set(BUILT_IN_PROGRAMS) - {*ASKING_THE_SET}:
            raise ValueError(
                f"reward.kinds semantic needs a program that asks the set's questions "
                f"({', '.join(ASKING_THE_SET)}), got {self.program}; set reward.kinds to all"
            )
        return self


class DataConfig(Section):
    """Where prompts come from: a ``.txt`` or ``.jsonl`` file, or ``shapes:train`` and the like."""

    train: str
    heldout: str
    num_train: int | None = Field(None, ge=1)
    thought_share: float = Field(0.5, ge=0, le=1)
    """Of a world's prompts: the share that needs a thought."""


class RunConfig(Section):
    """Everything about one run; written resolved into its folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(42, ge=0)
    output: Path = Path("runs")
    model: ModelConfig
    task: TaskConfig
    refinement: RefinementConfig | None = None
    """How pictures are refined, in training (``task.kind`` ``srr`` or ``mixed``) and after it."""
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    reward: RewardConfig = RewardConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    services: ServiceConfig = ServiceConfig()
    placement: PlacementConfig = PlacementConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    watch: WatchConfig = WatchConfig()
    versions: dict[str, str] = Field(default_factory=dict)
    """Package versions of the run; written into its folder, never read."""

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        self.rollout.flow.check("rollout.flow")
        self.optimizer.check(self.training.num_steps)
        self._check_refinement()
        if not self.task.think and self.reward.format_bonus:
            raise ValueError(
                "reward.format_bonus rewards a well-formed thought, got "
                f"{self.reward.format_bonus} with task.think false; set reward.format_bonus to 0"
            )
        if not self.task.think and not self.algorithm.image.enabled:
            raise ValueError(
                "nothing would train with task.think and algorithm.image.enabled both false; "
                "turn one of them on"
            )
        self._check_parallel()
        return self

    def _check_parallel(self) -> None:
        rollout, learner = self.rollout, self.learner
        if rollout.slices > rollout.group_size:
            raise ValueError(
                "a slice holds at least one sample, got rollout.slices "
                f"{rollout.slices} with rollout.group_size {rollout.group_size}; ask for fewer"
            )
        if learner.sharded and self.model.trainable != "experts":
            raise ValueError(
                "adapters are small and whole on every rank, got learner.sharded true with "
                f"model.trainable {self.model.trainable}; set it to false"
            )
        if learner.on_runners:
            learner.check_on_runners(rollout.max_lag)
        slices = rollout.prompts_per_step * rollout.slices
        if self.num_ranks > slices:
            raise ValueError(
                f"every rank needs a share of a step's {slices} slices (rollout.prompts_per_step "
                f"{rollout.prompts_per_step} x rollout.slices {rollout.slices}), got "
                f"{self.num_ranks} ranks; raise rollout.slices or lower the number of ranks"
            )

    def _check_refinement(self) -> None:
        refinement, kind, rounds = self.refinement, self.task.kind, self.evaluation.rounds
        if refinement is None:
            if kind != "rt2i" or rounds:
                raise ValueError(
                    "refining needs a section refinement with at least the reflection prompt, got "
                    f"task.kind {kind} and evaluation.rounds {rounds} without one; add it "
                    "(deploy/configs/shapes-srr.yaml has one)"
                )
            return
        refinement.flow.check("refinement.flow")
        if refinement.drafts.trained and not (self.task.think and kind == "srr"):
            raise ValueError(
                "refinement.drafts.trained trains the drafts as reasoning text-to-image, got "
                f"task.think {str(self.task.think).lower()} and task.kind {kind}; it needs "
                "task.think true and task.kind srr"
            )
        if not self.task.think and refinement.format_bonus:
            raise ValueError(
                "refinement.format_bonus rewards a well-formed reflection, got "
                f"{refinement.format_bonus} with task.think false; set refinement.format_bonus to 0"
            )

    @property
    def num_ranks(self) -> int:
        """Processes that learn: ``learner.ranks``, or every runner where these learn."""
        return self.rollout.num_runners if self.learner.on_runners else self.learner.ranks

    @property
    def sharded(self) -> bool:
        """Whether ranks hold shares of the experts (:class:`LearnerConfig`)."""
        learner = self.learner
        several = self.model.trainable == "experts" and learner.ranks > 1
        return several and (learner.gpus > 0 if learner.sharded is None else learner.sharded)

    @property
    def min_valid(self) -> int:
        """Scored samples a group needs to be trained on: ``reward.min_valid_share``, at least 2."""
        return max(2, math.ceil(self.reward.min_valid_share * self.rollout.group_size))

    @property
    def folder(self) -> Path:
        """The run's folder, ``<output>/<name>``."""
        return self.output / self.name
