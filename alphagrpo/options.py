"""The choices a run config offers and the code obeys: each is written here once. Free of torch."""

from __future__ import annotations

from typing import Literal

TrainKind = Literal["lora", "experts"]
"""What trains: adapters, or every decoder-layer weight of both experts."""
WeightType = Literal["float32", "bfloat16"]
"""Type of the policy's weights, under torch's name."""
AttentionKernel = Literal["auto", "matmul", "cudnn", "efficient", "math"]
"""What computes attention; ``auto`` chooses by device and number of queries."""
Thinking = Literal["auto", "eager", "static"]
"""How thoughts are sampled; ``auto`` by CUDA graphs on a GPU and eagerly on a CPU."""
RecomputeMode = Literal["none", "all", "auto"]
"""Which layers compute their activations again backward, where it is not said in GB."""
StartNoise = Literal["sample", "group"]
"""Whether each sample of a group starts from noise of its own or all from the same."""
Renorm = Literal["none", "global", "channel", "text_channel"]
"""Which norm of the conditional velocity guidance restores."""
StdMode = Literal["batch", "group"]
"""Over whose rewards the standard deviation of an advantage is taken."""
RatioLevel = Literal["sequence", "token"]
"""What a ratio of the text loss belongs to."""
LagMode = Literal["clip", "importance"]
"""What keeps samples of an older policy from misleading: the clips, or capped weights."""
Aggregate = Literal["geometric", "mean", "sum_mean"]
"""How DVReward joins the means of semantic and quality questions."""
Kinds = Literal["all", "semantic"]
"""Which of a set's questions count: all, or the semantic ones alone."""
Rectification = Literal["off", "max", "group_min"]
"""What a refinement is worth that did not improve its picture."""
Gate = Literal["dvreward", "none"]
"""Which picture is held after a round: the better one, or the last."""
