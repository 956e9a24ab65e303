"""Names of reward programs a run config may hold, told without importing torch."""

from __future__ import annotations

import re

BUILT_IN_PROGRAMS = ("dvreward", "dvreward_binary", "holistic", "single_question")
"""What :mod:`alphagrpo.rewards.programs` registers; a test holds both to each other."""

ASKING_THE_SET = ("dvreward", "dvreward_binary")
"""Those that ask the decomposer's questions, and so can leave the quality questions out."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_import_path(name: str) -> bool:
    """Whether ``name`` reads ``package.module:Class``."""
    return _PATH.fullmatch(name) is not None


def check_program_name(name: str) -> str:
    """``name`` if it is built in or an import path; ValueError that lists what there is.

    Names registered in code are not among them: runners are processes of their own, in which that
    code never ran.
    """
    if name in BUILT_IN_PROGRAMS or is_import_path(name):
        return name
    raise ValueError(
        f"a reward program is one of {', '.join(BUILT_IN_PROGRAMS)}, or a class of yours as "
        f"package.module:Class, got {name!r}; choose one of them"
    )
