"""Pictures and the questions about them as one body of bytes: a line of JSON, then the pixels.

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

    Asked = tuple[NDArray[np.uint8], Sequence[Question]]
    """A picture [H, W, 3] and what is asked about it."""

MEDIA_TYPE = "application/x-alphagrpo-pictures"
MOST_PICTURES = 4
"""Of one call. A group is spread over replicas, and its first verdicts do not wait for its last."""
MOST_BYTES = 8 << 20
"""Of one body: a gateway takes 12 MiB unless it is told otherwise. A larger picture goes as PNG."""


def pack(asked: Sequence[Asked]) -> bytes:
    """The body for some pictures: a list of ``height``, ``width`` and ``questions``, then rows."""
    head = [
        {
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "questions": questions_to_records(questions),
        }
        for pixels, questions in asked
    ]
    rows = (pixels.tobytes() for pixels, _ in asked)
    return b"".join([json.dumps(head).encode(), b"\n", *rows])


def unpack(body: bytes) -> tuple[bytes, memoryview]:
    """The line of JSON and the bytes of all pixels, which are not copied."""
    end = body.find(b"\n")
    end = len(body) if end < 0 else end
    return body[:end], memoryview(body)[end + 1 :]
