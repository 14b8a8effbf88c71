"""Which images are the worst, and their pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from intvit.preprocess import Preprocessing
from intvit.report.comparison import Guess, ImageResult
from intvit.report.worst import Worst, jpeg, rank


def result(
    name: str, label: int | None, ours: int, exact: int | None, cosine: float | None, p: float = 0.5
) -> ImageResult:
    return ImageResult(name, label, Guess((ours,), p), None if exact is None else Guess((exact,), p), cosine)


def test_disagreement_comes_first_then_the_cosine() -> None:
    worst = Worst(3)
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    rows = [
        result("agrees, far", 0, 1, 1, 0.1),
        result("differs, near", 0, 1, 2, 0.99),
        result("agrees, near", 0, 1, 1, 0.999),
        result("differs, far", 0, 1, 2, 0.5),
        result("agrees, farther", 0, 1, 1, 0.05),
    ]
    worst.add(rows[:2], pixels[:2])
    worst.add(rows[2:], pixels[2:])
    found = worst.pictures()
    assert [picture.result.name for picture in found] == ["differs, far", "differs, near", "agrees, farther"]
    assert [int(picture.pixels[0, 0, 0]) for picture in found] == [3, 1, 4]


def test_without_a_float_model_the_surest_mistakes() -> None:
    right, unsure, sure = (
        result("", 1, 1, None, None),
        result("", 1, 0, None, None, 0.3),
        result("", 1, 0, None, None, 0.9),
    )
    assert rank(right) is None
    low, high = rank(sure), rank(unsure)
    assert low is not None and high is not None and low < high
    assert rank(ImageResult("")) is None


def test_none_are_kept_where_none_are_wanted() -> None:
    worst = Worst(0)
    worst.add([result("", 0, 1, 2, 0.5)], np.zeros((1, 2, 2, 3), np.uint8))
    assert worst.pictures() == ()


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_small_jpegs(channels: int) -> None:
    address = jpeg(np.full((300, 200, channels), 200, np.uint8), None, side=60)
    prefix, _, content = address.partition(",")
    assert prefix == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert image.format == "JPEG"
        assert image.size == (40, 60)
        assert np.abs(np.asarray(image, np.int32) - 200).max() <= 2


def test_channels_are_shown_as_red_green_blue() -> None:
    blue = np.zeros((16, 16, 3), np.uint8)
    blue[..., 0] = 255
    address = jpeg(blue, Preprocessing(size=(16, 16), order="bgr"))
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
        assert np.asarray(image)[8, 8].argmax() == 2
