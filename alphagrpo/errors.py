"""One exception tree for the whole mesh.

::

    MeshError
    ├── ConfigError            (ValueError)       a user's setting or file; nothing was started
    │   ├── CheckpointError                       a model folder that is missing or damaged
    │   └── PromptFileError                       an empty or undecodable prompt file
    ├── ServiceError           (RuntimeError)     a service answered with a failure
    │   ├── ServiceUnavailable (ConnectionError)  no answer; worth a retry
    │   │   └── Overloaded                        a queue that is full; worth a retry a little later
    │   ├── DeadlineExceeded   (TimeoutError)     the answer was late
    │   ├── NoQuestions        (ValueError)       a prompt the decomposer can make no question of
    │   └── BadImage           (ValueError)       bytes that are no allowed picture
    ├── WeightsError           (RuntimeError)     weights with a wrong checksum or version
    │   └── RegistryLost                          nobody says where weights are
    ├── ParityError            (RuntimeError)     rollout and replay disagree beyond the clip range
    ├── PolicyDataError        (RuntimeError)     trajectories that may not be trained on
    └── EnvironmentProblem     (RuntimeError)     memory, ports, a cluster already running
        ├── LearnerLost                           a rank of the learner is gone, or silent
        ├── ProcessSilent                         a process that does not answer, and did not die
        ├── DiskFull                              no room for a file that a run must write
        ├── UnfitDevice                           a GPU, or its driver, that cannot do its part
        └── DeviceFull                            a GPU whose memory has run out

Every message says the rule, the value got and the remedy. All of them survive pickling: Ray raises
them again on the other side of a process boundary.
"""

from __future__ import annotations


class MeshError(Exception):
    """Root of every error this project raises on purpose."""


class ConfigError(MeshError, ValueError):
    """A setting, file or combination the user can fix; raised before anything is started."""


class CheckpointError(ConfigError):
    """A model folder that is missing, truncated, or whose tensors do not fit its config."""


class PromptFileError(ConfigError):
    """A prompt file that is empty, not UTF-8, or holds a malformed line."""


class ServiceError(MeshError, RuntimeError):
    """A decomposer, verifier or generator call that failed for good."""


class ServiceUnavailable(ServiceError, ConnectionError):
    """No answer could be had. Never turned into reward 0: a zero is an opinion, this is an
    absence.
    """


class Overloaded(ServiceUnavailable):
    """A queue that is full: what was asked for has not been begun. Ask again a little later."""


class DeadlineExceeded(ServiceError, TimeoutError):
    """The answer did not come inside the call's deadline."""


class NoQuestions(ServiceError, ValueError):
    """A prompt of which no valid question could be made; the prompt is set aside, never trained."""


class BadImage(ServiceError, ValueError):
    """Bytes that do not decode to a picture, or a picture outside the allowed size or mode."""


class WeightsError(MeshError, RuntimeError):
    """Weights whose checksum, version or layout is not what the manifest says."""


class RegistryLost(WeightsError):
    """The weight registry does not answer: nobody says where the weights of a version are."""


class ParityError(MeshError, RuntimeError):
    """Replayed log-probabilities differ from the rollout's by more than a tenth of the clip
    range.
    """


class PolicyDataError(MeshError, RuntimeError):
    """Trajectories that may not be trained on, such as too many samples without a score."""


class EnvironmentProblem(MeshError, RuntimeError):
    """The machine or cluster cannot run this: too little memory, a port in use, a cluster
    already up.
    """


class DiskFull(EnvironmentProblem):
    """A file of a run that the disk has no room for; nothing that was written before is lost."""


class UnfitDevice(EnvironmentProblem):
    """A GPU that is too small or too old for its part of a run, or a driver too old for torch."""


class DeviceFull(EnvironmentProblem):
    """A GPU whose memory has run out in a run; nothing that was learnt before is lost."""


class LearnerLost(EnvironmentProblem):
    """A rank of the learner is gone or does not answer, and with it every step since the last
    checkpoint.
    """


class ProcessSilent(EnvironmentProblem):
    """A process of the run lives, as far as anybody knows, and does not answer."""
