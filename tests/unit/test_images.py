"""Pictures from strangers: what decodes, what is refused and why, and names by content."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from alphagrpo.errors import BadImage
from alphagrpo.images import (
    ImageLimits,
    decode_base64_image,
    decode_image,
    encode_png_base64,
    image_hash,
    raw_image,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def _file(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return buffer.getvalue()


def test_png_survives_the_round_trip():
    assert np.array_equal(decode_base64_image(encode_png_base64(PIXELS)), PIXELS)
    head = "data:image/png;base64," + encode_png_base64(PIXELS)
    assert np.array_equal(decode_base64_image(head), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA"])
def test_other_modes_become_rgb(mode):
    decoded = decode_image(_file(Image.fromarray(PIXELS).convert(mode)))
    assert decoded.shape == PIXELS.shape
    assert decoded.dtype == np.uint8


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert (decode_image(_file(clear)) == 255).all()


def test_jpeg_decodes_nearly():
    smooth = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    decoded = decode_image(_file(Image.fromarray(smooth), "JPEG")).astype(int)
    assert np.abs(decoded - smooth).max() <= 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "do not decode"),
        (b"not a picture", "do not decode"),
        (_file(Image.fromarray(PIXELS))[:-40], "do not decode"),
        (_file(Image.fromarray(PIXELS), "GIF"), "do not decode"),
        (_file(Image.new("RGB", (4, 4))), "at least"),
        (_file(Image.new("RGB", (100, 100))), "at most"),
        (_file(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"), "mode"),
        (b"x" * 5000, "bytes"),
    ],
)
def test_what_is_no_picture_or_out_of_limits_is_refused(data, message):
    with pytest.raises(BadImage, match=message):
        decode_image(data, ImageLimits(max_bytes=4096, max_pixels=64 * 64))


def test_text_that_is_no_base64_is_refused():
    with pytest.raises(BadImage, match="base64"):
        decode_base64_image("???")
    with pytest.raises(BadImage, match="do not decode"):
        decode_base64_image(base64.b64encode(b"hello").decode())


def test_names_depend_on_content_and_shape_alone():
    copy = np.asfortranarray(PIXELS)
    assert image_hash(copy) == image_hash(PIXELS)
    assert image_hash(PIXELS.reshape(24, 16, 3)) != image_hash(PIXELS)
    assert image_hash(255 - PIXELS) != image_hash(PIXELS)


def test_raw_pixels_are_a_view_of_their_bytes():
    data = PIXELS.tobytes()
    assert np.array_equal(raw_image(data, 16, 24), PIXELS)
    assert raw_image(memoryview(data), 16, 24).base is not None


@pytest.mark.parametrize(
    ("size", "limits", "message"),
    [
        ((16, 23), ImageLimits(), "1104 for 23 x 16, got 1152 bytes"),
        ((24, 24), ImageLimits(), "1728 for 24 x 24, got 1152 bytes"),
        ((4, 96), ImageLimits(), "sides of at least 8"),
        ((16, 24), ImageLimits(max_pixels=383), "at most 383 pixels"),
    ],
)
def test_raw_pixels_of_another_size_are_refused(size, limits, message):
    with pytest.raises(BadImage, match=message):
        raw_image(PIXELS.tobytes(), *size, limits)
