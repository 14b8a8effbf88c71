"""Preprocessing against the libraries' own transforms: equal pixels, equal floats."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from intvit import transforms
from intvit.errors import IntvitError
from intvit.preprocess import Preprocessing

Photograph = Callable[..., Image.Image]

SIZES = [(375, 500), (500, 333), (227, 227), (64, 301), (229, 1000), (100, 80)]


def both(preprocessing: Preprocessing, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    pixels = preprocessing.transform(image)
    return pixels, preprocessing.normalize(pixels[None])[0]


class Config(torch.nn.Module):
    """The part of a timm model that its data config reads."""

    def __init__(self, **config: object) -> None:
        super().__init__()
        self.pretrained_cfg = config


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    "config",
    [
        {"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic"},
        {
            "input_size": (3, 224, 224),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        },
        {"input_size": (3, 256, 256), "crop_pct": 1.0, "crop_mode": "squash"},
        {"input_size": (3, 256, 192), "crop_pct": 0.95},
        {"input_size": (3, 256, 192), "crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bilinear"},
        {"input_size": (3, 160, 160), "crop_pct": 0.95, "crop_mode": "border"},
    ],
)
def test_equals_timm(config: dict[str, object], height: int, width: int, photograph: Photograph) -> None:
    import timm

    module, image = Config(**config), photograph(height, width)
    resolved = timm.data.resolve_model_data_config(module)
    pixels, values = both(transforms.timm_preprocessing(module), image)
    expected = timm.data.create_transform(**resolved, normalize=False)(image).numpy()
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), expected)
    np.testing.assert_array_equal(values, timm.data.create_transform(**resolved)(image).numpy())


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t"])
def test_equals_torchvision(name: str, height: int, width: int, photograph: Photograph) -> None:
    from torchvision import models

    image, published = photograph(height, width), models.get_model_weights(name).DEFAULT
    preprocessing = transforms.torchvision_preprocessing(name, torch.nn.Module())
    assert preprocessing is not None
    np.testing.assert_array_equal(both(preprocessing, image)[1], published.transforms()(image).numpy())


PROCESSORS = [
    ("ViTImageProcessorPil", {}),
    ("ViTImageProcessorPil", {"size": {"height": 384, "width": 384}, "resample": 3, "image_mean": [0.4] * 3}),
    ("DeiTImageProcessorPil", {}),
    ("BitImageProcessorPil", {"size": {"shortest_edge": 256}}),
    ("CLIPImageProcessorPil", {}),
    ("CLIPImageProcessorPil", {"size": {"shortest_edge": 101}, "crop_size": {"height": 224, "width": 122}}),
    ("SiglipImageProcessorPil", {"do_normalize": False}),
    ("ViTImageProcessorPil", {"do_rescale": False}),
]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("name", "options"), PROCESSORS)
def test_equals_transformers(
    name: str, options: dict[str, object], height: int, width: int, photograph: Photograph
) -> None:
    import transformers

    processor, image = getattr(transformers, name)(**options), photograph(height, width)
    preprocessing = transforms.processor_preprocessing(processor)
    assert preprocessing is not None
    pixels, values = both(preprocessing, image)
    raw = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), raw)
    np.testing.assert_array_equal(values, processor(image, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("name", ["ViTImageProcessor", "BitImageProcessor"])
def test_close_to_transformers_default_backend(name: str, photograph: Photograph) -> None:
    """transformers resizes tensors by default, whose weights have fewer bits than Pillow's: a step or two apart."""
    import transformers

    image = photograph(375, 500)
    preprocessing = transforms.processor_preprocessing(getattr(transformers, name + "Pil")())
    assert preprocessing is not None
    processor = getattr(transformers, name)()
    raw = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0].numpy()
    difference = np.abs(preprocessing.transform(image).transpose(2, 0, 1).astype(int) - raw.astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_a_processor_with_steps_of_its_own_is_not_guessed() -> None:
    import transformers

    assert transforms.processor_preprocessing(transformers.ConvNextImageProcessorPil()) is None
    varying = transformers.CLIPImageProcessorPil(do_center_crop=False)
    assert transforms.processor_preprocessing(varying) is None


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path, photograph: Photograph) -> None:
    import transformers
    from torchvision.datasets.folder import pil_loader

    image = photograph(40, 50, mode="RGBA" if mode in ("RGBA", "LA") else "RGB").convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    plain = Preprocessing(size=(40, 50), crop="none")
    np.testing.assert_array_equal(plain.load(path), np.asarray(pil_loader(path)))
    on_white = dataclasses.replace(plain, alpha="white")
    processor = transformers.CLIPImageProcessorPil(
        do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False
    )
    expected = processor(Image.open(path), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(on_white.load(path).transpose(2, 0, 1), expected)


def test_orientation_is_ignored(tmp_path: Path, photograph: Photograph) -> None:
    image, exif = photograph(40, 50), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    pixels = Preprocessing(size=(40, 50), crop="none").load(tmp_path / "turned.png")
    np.testing.assert_array_equal(pixels, np.asarray(image))


def test_grey_and_bgr(photograph: Photograph) -> None:
    image = photograph(40, 50)
    grey = Preprocessing(size=(40, 50), mean=(0.5,), std=(0.5,)).transform(image)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(image.convert("L")))
    bgr = Preprocessing(size=(40, 50), order="bgr").transform(image)
    np.testing.assert_array_equal(bgr, np.asarray(image)[..., ::-1])


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Preprocessing,
        size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
        resize=st.none() | st.integers(1, 999) | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        fit=st.sampled_from(["squash", "cover", "contain"]),
        crop=st.sampled_from(["center", "center_floor", "none"]),
        mean=st.tuples(*[st.floats(0, 1)] * 3),
    )
)
def test_json_round_trip(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_override() -> None:
    base = Preprocessing(size=(224, 224), resize=256)
    assert base.override() == base
    assert base.override(size=448) == dataclasses.replace(base, size=(448, 448), resize=512)
    assert base.override(size=448, resize=448).resize == 448
    assert base.override(resize=[256, 256], mean=0.5).mean == (0.5, 0.5, 0.5)
    with pytest.raises(IntvitError, match="no field named crop_pct; the fields are size, resize"):
        base.override(crop_pct=0.9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interpolation": "cubic"}, "interpolation='cubic' is not known; choose one of nearest, box"),
        ({"mean": (0.5,)}, "1 means and 3 stds"),
        ({"std": (0.0, 1.0, 1.0)}, "std and rescale positive"),
        ({"resize": 0}, "must be positive integers"),
        ({"resize": (0, 1)}, "must be positive integers"),
        ({"size": (224.0, 224)}, "must be positive integers"),
        ({"nonsense": 1}, "unexpected keyword argument 'nonsense'"),
    ],
)
def test_wrong_fields(fields: dict[str, object], message: str) -> None:
    with pytest.raises(IntvitError, match=message):
        Preprocessing.from_dict({"size": [224, 224], **fields})


def test_wrong_images(tmp_path: Path, photograph: Photograph) -> None:
    preprocessing = Preprocessing(size=(32, 32), resize=36)
    with pytest.raises(IntvitError, match=r"gone\.png: no such image"):
        preprocessing.load(tmp_path / "gone.png")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(IntvitError, match=r"text\.jpg: cannot read this image \(not an image that Pillow can read\)"):
        preprocessing.load(tmp_path / "text.jpg")
    photograph(100, 100).save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(IntvitError, match=r"cut\.jpg: cannot read this image \(image file is truncated"):
        preprocessing.load(tmp_path / "cut.jpg")
    with pytest.raises(IntvitError, match="is 36x40 after preprocessing, the model takes 32x32"):
        dataclasses.replace(preprocessing, crop="none").transform(photograph(36, 40))
    with pytest.raises(IntvitError, match=r"expected uint8 \[N, H, W, 3\], got float32"):
        preprocessing.normalize(np.zeros((1, 32, 32, 3), np.float32))
