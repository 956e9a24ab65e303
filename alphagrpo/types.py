"""The records that travel through the mesh: frozen, documented per field, free of torch and ray.

Arrays are numpy so that a trajectory crosses Ray's object store without a copy.
Legend of shapes: L text token, K trained SDE step, N image token, C latent channel per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

QuestionKind = Literal["semantic", "quality"]
QuestionForm = Literal["yes_no", "grade"]
"""How a question is answered: by P(yes), or by a whole number from 0 to 10."""
WeightsKind = Literal["lora", "full"]
TaskName = Literal["rt2i", "srr"]
"""What one trajectory is: think and draw, or reflect on a picture and draw again."""
Sort = Literal["plain", "thought"]
"""A prompt's sort: it says what to draw, or that can only be told by a thought."""
SORTS: tuple[Sort, ...] = get_args(Sort)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the user wants drawn.

    Example: ``Prompt(id="p17", text="two red circles on a black background")``
    """

    id: str
    """Stable across runs: file stem and line number, or the world's own scene id."""
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON values only. The shapes world keeps the scene specification here, for the oracle
    alone.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question about the picture; "yes", or a high grade, is always the good answer.

    Example: ``Question(id="s0", text="is there a red circle ?", kind="semantic", tag="Existence")``
    """

    id: str
    """Unique in its set: ``s<i>`` for semantic, ``q<i>`` for quality questions."""
    text: str
    kind: QuestionKind
    tag: str
    """One of the paper's 10 semantic or 8 quality aspects (DVReward, section 3.1)."""
    depends_on: tuple[str, ...] = ()
    """Ids of questions that make no sense unless these are answered yes."""
    form: QuestionForm = "yes_no"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSet:
    """All questions of one prompt, and which program and model made them."""

    prompt: str
    """The prompt's text: questions are keyed by what was asked, not by who asked."""
    questions: tuple[Question, ...]
    revision: str
    """``<program>@<model revision>``, so that a reward can be traced to what made its questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verifier's answer to one question about one picture.

    Example: ``Verdict(question_id="s0", p_yes=0.91, judge="shapes-verifier@4f2c")``
    """

    question_id: str
    p_yes: float
    """P(yes) / (P(yes) + P(no)) at the first answer token, summed over spellings; in [0, 1].
    Of a grade question: ``grade / 10``.
    """
    judge: str
    grade: int | None = None
    """Of a grade question the answer, 0 .. 10; None for yes/no questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A reward program's opinion of one picture. A score that could not be had is ``None``,
    never 0.
    """

    semantic: float
    """Mean P(yes) over the semantic questions; in [0, 1]."""
    quality: float | None
    """Mean P(yes) over the quality questions; in [0, 1]. None where the program asks none: then it
    is no part of the reward.
    """
    value: float
    """What the program makes of both; DVReward: their geometric mean, in [0, 1]. A sample's reward
    is made of it: rectified in a refinement, plus the task's bonuses.
    """
    verdicts: tuple[Verdict, ...]
    program: str = "dvreward"
    aggregate: str = ""
    """How the answers became the reward: ``geometric``, ``mean``, ``sum_mean``, ``semantic``,
    ``single``, or a program's own word.
    """
    questions: tuple[Question, ...] = ()
    """What was asked; a program may ask others than the set's own."""
    revision: str = ""
    """What the questions are from: the question set's revision, or the program's and a hash of its
    templates.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Verdicts travel as columns: a report has hundreds, and one by one they are most of what
        it costs the process that reads it.
        """
        verdicts = self.verdicts
        ids = [verdict.question_id for verdict in verdicts]
        columns = (
            None if ids == [question.id for question in self.questions] else ids,
            [verdict.p_yes for verdict in verdicts],
            [verdict.judge for verdict in verdicts],
            [verdict.grade for verdict in verdicts],
        )
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "verdicts"}
        return _score_of_columns, (rest, columns)

    def answers(self) -> tuple[tuple[Question, Verdict], ...]:
        """Each question that was answered, in the order they were asked, with its verdict."""
        by_id = {verdict.question_id: verdict for verdict in self.verdicts}
        return tuple((q, by_id[q.id]) for q in self.questions if q.id in by_id)


def _score_of_columns(rest: dict[str, Any], columns: tuple[Any, ...]) -> Score:
    ids, *others = columns
    asked = [question.id for question in rest["questions"]] if ids is None else ids
    verdicts = (
        Verdict(question_id=name, p_yes=p_yes, judge=judge, grade=grade)
        for name, p_yes, judge, grade in zip(asked, *others, strict=True)
    )
    return Score(verdicts=tuple(verdicts), **rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenText:
    """Text the policy was given: a condition, never trained."""

    token_ids: NDArray[np.int64]
    """[L], without the framing start and end ids, which the model adds."""
    role: Literal["system", "prompt"] = "prompt"
    """``system`` stays in the text-free guidance branch, ``prompt`` does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenImage:
    """A picture the policy was shown, as latents: encoding again would change the condition."""

    latents: NDArray[np.float32]
    """[N, C], row-major tokens."""
    pixels: NDArray[np.uint8]
    """[H, W, 3], for the vision transformer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSegment:
    """Text the policy sampled: a thought or a reflection."""

    token_ids: NDArray[np.int64]
    """[L] the exact sampled ids in order, the closing end id included if it was sampled."""
    log_probs: NDArray[np.float32]
    """[L] log-probability of each id under the unfiltered softmax at temperature 1."""
    finished: bool
    """False where the token limit cut the text; then no end id is among ``token_ids``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSegment:
    """A picture the policy drew, with what is needed to replay its SDE window."""

    window_start: int
    """First step (index into the time grid) of the trained SDE window."""
    latents: NDArray[np.float32]
    """[K + 1, N, C]: x before the window's first step, then after each of its K steps."""
    log_probs: NDArray[np.float32]
    """[K] mean over (N, C) of -(x_next - mu)^2 / (2 sigma^2 (-dt))."""
    noise_seed: int
    """Seed of the start noise and the window's noise; (seed, sample, step) gives each number."""
    final_latents: NDArray[np.float32]
    """[N, C] the clean end of the path; what a later round is shown."""
    pixels: NDArray[np.uint8]
    """[H, W, 3] the decoded picture."""


Segment = GivenText | GivenImage | TextSegment | ImageSegment


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One sample: what it was given, what it thought, what it drew, and which policy did so."""

    id: str
    """``<run>/<prompt>/<visit>/<sample>``: the same whichever worker sampled it, however often."""
    sample: int
    """Index in its group, 0 .. G - 1."""
    seed: int
    policy_version: int
    segments: tuple[Segment, ...]
    well_formed: bool = True
    """The thought opens and closes with the think tags (what the format bonus asks)."""

    @property
    def texts(self) -> tuple[TextSegment, ...]:
        """All sampled texts, one per round; none in a run without thinking."""
        return tuple(s for s in self.segments if isinstance(s, TextSegment))

    @property
    def images(self) -> tuple[ImageSegment, ...]:
        """All drawn pictures, one per round."""
        return tuple(s for s in self.segments if isinstance(s, ImageSegment))

    @property
    def text(self) -> TextSegment | None:
        """The last sampled text, or None for a run without thinking."""
        return next(reversed(self.texts), None)

    @property
    def image(self) -> ImageSegment:
        """The last picture drawn: the one that is scored."""
        for segment in reversed(self.segments):
            if isinstance(segment, ImageSegment):
                return segment
        raise LookupError(f"trajectory {self.id} holds no drawn image")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutJob:
    """An order for one group. Running it twice gives the same trajectories, to the bit on one kind
    of machine and not elsewhere (docs/gpu.md).
    """

    run: str
    prompt: Prompt
    visit: int
    """How often this prompt came before in this run; part of the seed."""
    group_size: int
    policy_version: int
    """The version that must sample it; a runner pulls until it has it."""
    seed: int
    """The run's seed."""
    task: TaskName = "rt2i"
    ranks: tuple[int, ...] = (0,)
    """Learner ranks that replay it, one per slice of its samples. With ``learner.placement:
    runners`` they are the runners that sample it.
    """
    slice: tuple[int, int] | None = None
    """Of a part of a group: its first sample and the one after its last."""

    @property
    def first(self) -> int:
        """The first sample that is asked for."""
        return self.slice[0] if self.slice else 0

    @property
    def samples(self) -> range:
        """The samples that are asked for, as places in the group."""
        return range(*self.slice) if self.slice else range(self.group_size)

    @property
    def size(self) -> int:
        """How many samples are asked for."""
        return len(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All G samples of one prompt: the unit of dispatch, retry, statistics and training.

    Samples of a refinement (``job.task`` is ``srr``) all begin from one draft, which is the
    ``GivenImage`` among their segments.
    """

    job: RolloutJob
    trajectories: tuple[Trajectory, ...]
    """G of them, in order of ``sample``."""
    questions: QuestionSet | None = None
    scores: tuple[Score | None, ...] = ()
    """One per trajectory; None where no score could be had."""
    rewards: tuple[float | None, ...] = ()
    """What the advantage is computed from: the score, rectified in a refinement, plus task
    bonuses; None where invalid.
    """
    draft_score: Score | None = None
    """Of the picture a refinement began from: what rectification compares with."""
    draft_group: Group | None = None
    """The trained rollout the draft was taken from (``refinement.drafts.trained``)."""

    @property
    def valid(self) -> tuple[bool, ...]:
        """Which samples have a reward and so may be trained on."""
        return tuple(reward is not None for reward in self.rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsManifest:
    """What a published set of weights is: enough to refuse a wrong or half-arrived one."""

    version: int
    checksum: str
    """BLAKE3 over the tensors' checksums in order, hex."""
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    """torch names without the prefix: ``float32``, ``bfloat16``."""
    offsets: tuple[int, ...]
    """Byte offset of each tensor in the flat buffer."""
    nbytes: int
    kind: WeightsKind = "full"
    checksums: tuple[str, ...] = ()
    """BLAKE3 of each tensor's bytes, hex, in the order of the names."""
