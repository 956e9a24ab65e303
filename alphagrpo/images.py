"""Pictures at the edge: decoding bytes within limits, checking arrays, naming them by content."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from alphagrpo.errors import BadImage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMATS = ("PNG", "JPEG")
_MODES = ("RGB", "L", "P", "RGBA", "1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What a picture sent by a stranger may be."""

    max_bytes: int = 8 << 20
    """Of the encoded file."""
    max_pixels: int = 4096 * 4096
    """Width times height, read from the header before anything is decompressed."""
    min_side: int = 8
    """Pixels."""


def check_pixels(pixels: NDArray[np.uint8]) -> None:
    """Raises BadImage unless ``pixels`` is a uint8 array [H, W, 3] with no empty side."""
    shape, dtype = getattr(pixels, "shape", None), getattr(pixels, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or dtype != np.uint8:
        raise BadImage(
            f"a picture is a uint8 array [height, width, 3], got {type(pixels).__name__} of shape "
            f"{shape} and type {dtype}; convert it first"
        )


def image_hash(pixels: NDArray[np.uint8]) -> str:
    """sha256 over shape and pixels [H, W, 3], hex: the picture's name in the run folder, in the
    ledger and in the verifier's memory of answers.
    """
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def decode_image(data: bytes, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """A PNG or JPEG file as uint8 [H, W, 3]; transparency is laid over white.

    Raises BadImage for anything else, for a truncated file, and outside ``limits``.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise BadImage(
            f"an image file has at most {limits.max_bytes} bytes, got {len(data)}; send a "
            "smaller one"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_header(image, limits)
                return _to_rgb(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning,
            OSError, SyntaxError, ValueError) as error:  # fmt: skip
        if isinstance(error, BadImage):
            raise
        raise BadImage(
            f"an image must be a whole PNG or JPEG file, got {len(data)} bytes that do not decode "
            f"({type(error).__name__}); send the file as it was written"
        ) from error


def raw_image(
    data: bytes | memoryview, height: int, width: int, limits: ImageLimits | None = None
) -> NDArray[np.uint8]:
    """The bytes of a picture's pixels, row by row, as uint8 [H, W, 3]: a view, not a copy.

    Raises BadImage outside ``limits`` and for another number of bytes.
    """
    _check_size(width, height, limits or ImageLimits())
    if len(data) != 3 * height * width:
        raise BadImage(
            f"raw pixels are three bytes each, {3 * height * width} for {width} x {height}, got "
            f"{len(data)} bytes; send them as they lie in a uint8 array [height, width, 3]"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels or min(width, height) < limits.min_side:
        raise BadImage(
            f"an image has at most {limits.max_pixels} pixels and sides of at least "
            f"{limits.min_side}, got {width} x {height}; resize it"
        )


def _check_header(image: Image.Image, limits: ImageLimits) -> None:
    _check_size(*image.size, limits)
    if image.mode not in _MODES:
        raise BadImage(
            f"an image's mode is one of {', '.join(_MODES)}, got {image.mode}; convert it to RGB"
        )


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "RGBA" or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(paper, image)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def decode_base64_image(text: str, limits: ImageLimits | None = None) -> NDArray[np.uint8]:
    """A picture from base64, with or without a ``data:image/...;base64,`` head. Raises BadImage."""
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(
            f"an image is sent as base64, got {len(text)} characters that are not ({error}); "
            "encode the file's bytes"
        ) from error
    return decode_image(data, limits)


def encode_png(pixels: NDArray[np.uint8], compress_level: int = 6) -> bytes:
    """A picture [H, W, 3] as a PNG file: lossless, so that a judge sees the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


def encode_png_base64(pixels: NDArray[np.uint8]) -> str:
    """The picture as a base64 PNG; packed lightly, since it travels once."""
    return base64.b64encode(encode_png(pixels, compress_level=1)).decode("ascii")
