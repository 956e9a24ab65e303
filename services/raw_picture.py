"""A picture and the questions about it as one body of bytes: a line of JSON, then the pixels.

What programs of the mesh send a gateway. A picture as PNG in base64 is for people: encoding and
decoding it costs more than all else that a gateway does for a call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from alphagrpo.judging.questions import questions_to_records
from alphagrpo.types import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MEDIA_TYPE = "application/x-alphagrpo-picture"
MOST_BYTES = 8 << 20
"""Larger pictures travel as PNG: a gateway takes bodies of 12 MiB unless it is told otherwise."""


def pack(pixels: NDArray[np.uint8], questions: Sequence[Question]) -> bytes:
    """The body for ``pixels`` uint8 [H, W, 3]: ``height``, ``width`` and ``questions``, then rows."""
    height, width, _ = pixels.shape
    head = {"height": height, "width": width, "questions": questions_to_records(questions)}
    return json.dumps(head).encode() + b"\n" + pixels.tobytes()


def unpack(body: bytes) -> tuple[bytes, memoryview]:
    """The line of JSON and the bytes of the pixels, which are not copied."""
    end = body.find(b"\n")
    end = len(body) if end < 0 else end
    return body[:end], memoryview(body)[end + 1 :]
