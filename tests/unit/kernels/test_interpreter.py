"""Runs the Triton kernels' tests in Triton's interpreter.

The interpreter is switched on for a whole process, before Triton is first imported; a process of
its own keeps that away from every other test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alphagrpo.kernels import has_triton

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.skipif(not has_triton(), reason="triton is not installed")
def test_triton_kernels_in_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER)]
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]


def test_the_kernels_work_on_the_cpu_where_triton_is_missing():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, alphagrpo.kernels as k\n"
        "k.token_log_probs(torch.ones(1, 2), torch.ones(3, 2), torch.zeros(1).long())"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], check=False, timeout=120, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
