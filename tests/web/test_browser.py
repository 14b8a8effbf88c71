"""The page in headless Chromium: its logits equal the reference, its pixels Pillow's, and it says what is wrong.

Any error on the page's console, and any request that leaves the server, fails a test.
"""

import base64
import io
import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pytest
import tiny
from numpy.typing import NDArray
from PIL import Image

import intvit
from intvit.integer_model import IntegerModel
from intvit.model import Array, Model
from intvit.preprocess import Preprocessing

if TYPE_CHECKING:
    from conftest import Page, Pair

Serve = Callable[..., AbstractContextManager[str]]
Opened = Callable[..., "Page"]
Export = Callable[..., "Pair"]
Photograph = Callable[..., Image.Image]

PILLOW = int(PIL.__version__.split(".")[0])
PLAIN = Preprocessing(size=(32, 32), resize=36, mean=(0.5,) * 3, std=(0.25,) * 3)
LABELS = ("tench, Tinca tinca", *(f"class number {i}" for i in range(1, 10)))


def extremes() -> NDArray[np.uint8]:
    """Black, white, noise of both, a checkerboard, and one bright channel."""
    images = np.zeros((5, 32, 32, 3), np.uint8)
    images[1] = 255
    images[2] = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), images[2].shape)
    images[3] = 255 * (np.indices((32, 32)).sum(0) % 2)[..., None]
    images[4, ..., 2] = 255
    return images


def described(**changes: Any) -> IntegerModel:
    """The tiny model with a preprocessing and labels, as one from files has."""
    model = tiny.integer_model()
    fields = {"preprocessing": PLAIN, "labels": LABELS, **changes}
    return IntegerModel(model.graph, replace(model.metadata, **fields))


@pytest.fixture(scope="module")
def exported(export: Export) -> "Pair":
    return export(described())


class Wrong(Model):
    """A model whose first logit is one too large."""

    def __init__(self, model: Model) -> None:
        self.metadata, self._model = model.metadata, model

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        (logits,) = self._model.integers(pixels)
        return (logits + np.eye(1, logits.shape[1], dtype=logits.dtype),)


@pytest.mark.parametrize("query", ["", "?batch=any", "?threads=1"])
def test_logits_equal_the_reference(served: Serve, opened: Opened, exported: "Pair", ort_web: Path, query: str) -> None:
    with served(exported.model, ort_web, exported.reference) as url:
        page = opened(url + query)
        for pixels in (tiny.pixels(1), tiny.pixels(2, seed=1), tiny.pixels(50, seed=2), extremes(), extremes()[1:2]):
            (logits,), compared = page.classify(pixels)
            np.testing.assert_array_equal(logits, exported.reference.integers(pixels)[0])
            assert (compared["exact"], compared["equal"], compared["largest"]) == (True, 10 * len(pixels), 0)
        assert page.tab.evaluate("crossOriginIsolated")
        assert ("WebAssembly, 1 thread\n" in page.text("#facts")) == ("threads=1" in query or os.cpu_count() == 1)


@pytest.mark.parametrize("options", [{"image": "float32"}, {"batch": 2}, {"keep_functions": True}], ids=str)
def test_other_exports(served: Serve, opened: Opened, export: Export, ort_web: Path, options: dict[str, Any]) -> None:
    exported = export(**options)
    pixels = np.concatenate([tiny.pixels(2), extremes()])
    with served(exported.model, ort_web, exported.reference) as url:
        (logits,), compared = opened(url).classify(pixels)
    np.testing.assert_array_equal(logits, exported.reference.integers(pixels)[0])
    assert compared["equal"] == compared["total"] == 70


def test_weights_in_a_file_of_their_own(
    served: Serve, opened: Opened, export: Export, ort_web: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a model over 2 GB has them."""
    monkeypatch.setattr("intvit.to_onnx.file.LIMIT", 0)
    exported = export()
    assert len(list(exported.model.path.parent.iterdir())) == 2
    with served(exported.model, ort_web, exported.reference) as url:
        (logits,), _ = opened(url).classify(tiny.pixels(2))
    np.testing.assert_array_equal(logits, exported.reference.integers(tiny.pixels(2))[0])


@pytest.mark.parametrize("options", [{"output": "float32"}, {"profile": "qdq"}], ids=str)
def test_the_difference_of_floats_is_shown(
    served: Serve, opened: Opened, export: Export, ort_web: Path, options: dict[str, Any], photograph: Photograph
) -> None:
    exported = export(described(), **options)
    with served(exported.model, ort_web, exported.model) as url:
        page = opened(url)
        pixels = tiny.pixels(3)
        (logits,), compared = page.classify(pixels)
        expected = exported.model(pixels)
        assert np.abs(logits - expected).max() <= 0.05 * np.abs(expected).max()
        assert not compared["exact"]
        assert compared["largest"] == pytest.approx(np.abs(logits - expected).max(), rel=1e-5)
        choose(page, photograph(60, 80))
        assert page.text("#verdict-title").startswith("Largest difference 0")
        assert page.text("#verdict-text").startswith("Not bit-exact: these outputs are floats. The server runs the ref")
        assert page.text("#verdict-text").endswith("likeliest classes are the same.")
        assert "differ from the server" not in page.tab.get_attribute("#logits", "aria-label")


def choose(page: "Page", image: Image.Image, name: str = "photograph.png") -> None:
    """As a visitor chooses a file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    page.tab.evaluate("delete document.body.dataset.state")
    page.tab.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content.getvalue()})
    page.wait()


def test_an_image_file(served: Serve, opened: Opened, exported: "Pair", ort_web: Path, photograph: Photograph) -> None:
    image = photograph(60, 80)
    logits = exported.reference(PLAIN.transform(image)[None])[0]
    with served(exported.model, ort_web, exported.reference) as url:
        page = opened(url)
        assert page.tab.title() == "tiny · intvit"
        assert page.tab.is_visible("#empty")
        choose(page, image)
        assert page.text("#verdict-title") == "10 of 10 logits equal"
        assert "the reference" in page.text("#verdict-text")
        order = np.argsort(-logits, kind="stable")[:5]
        names = [LABELS[index].replace(", ", "") for index in order]
        assert [text.replace("\n", "") for text in page.tab.locator("#top .label").all_inner_texts()] == names
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert page.tab.locator("#top .share").all_inner_texts() == [f"{100 * shares[i]:.1f} %" for i in order]
        assert page.text("#summary").endswith("10 of 10 logits equal.")
        assert "7 runs" in page.text("#times")
        assert "none differ" in page.tab.get_attribute("#logits", "aria-label")


def test_a_wrong_logit_is_seen(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, photograph: Photograph
) -> None:
    with served(exported.model, ort_web, Wrong(exported.reference)) as url:
        page = opened(url)
        choose(page, photograph(60, 80))
        assert page.text("#verdict-title") == "9 of 10 logits equal"
        assert page.tab.get_attribute("#verdict", "data-kind") == "bad"
        assert "1 differ" in page.tab.get_attribute("#logits", "aria-label")


def test_drop_samples_and_wrong_files(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, photograph: Photograph
) -> None:
    drop = """(text) => {
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped", { type: "image/png" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    content = io.BytesIO()
    photograph(40, 50).save(content, "PNG")
    with served(exported.model, ort_web, exported.model) as url:
        page = opened(url)
        page.tab.evaluate(drop, base64.b64encode(b"no image").decode())
        page.tab.wait_for_selector("#error:not([hidden])")
        assert page.text("#error").startswith("dropped is not an image")
        page.wait()
        page.tab.evaluate("delete document.body.dataset.state")
        page.tab.evaluate(drop, base64.b64encode(content.getvalue()).decode())
        page.wait()
        assert page.tab.is_hidden("#error")
        assert page.text("#verdict-title") == "10 of 10 logits equal"
        for sample in page.tab.locator("#samples button").all():
            page.tab.evaluate("delete document.body.dataset.state")
            sample.focus()
            page.tab.keyboard.press("Enter")
            page.wait()
            assert page.tab.get_attribute("#view", "aria-label").startswith(sample.get_attribute("title"))
            assert page.text("#verdict-title") == "10 of 10 logits equal"


HOWS = (
    Preprocessing(size=(24, 24), resize=27),
    Preprocessing(size=(24, 24), resize=27, interpolation="bilinear", crop="center_floor"),
    Preprocessing(size=(24, 20), resize=(30, 26), interpolation="lanczos"),
    Preprocessing(size=(24, 24), resize=(24, 24), interpolation="box", order="bgr"),
    Preprocessing(size=(24, 24), resize=(24, 24), fit="cover", interpolation="hamming"),
    Preprocessing(size=(24, 24), resize=(23, 24), fit="contain", interpolation="nearest"),
    Preprocessing(size=(64, 90), resize=50, crop="center_floor"),
    Preprocessing(size=(71, 33), resize=None, mean=(0.5,), std=(0.5,)),
    Preprocessing(size=(31, 41), resize=(31, 41), crop="none", alpha="white"),
)


def test_pixels_are_pillows(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, photograph: Photograph
) -> None:
    """Before Pillow 13 the passes of a resizing had another order where proportions change, and in tall images."""
    code = """async ([text, how]) => {
        const { preprocess } = await import("./preprocess.js");
        const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
        return Array.from(preprocess(await createImageBitmap(new Blob([bytes])), how));
    }"""
    with served(exported.model, ort_web, exported.model) as url:
        page = opened(url)
        for how, (height, width) in itertools.product(HOWS, ((60, 80), (81, 53), (20, 17), (24, 24), (300, 31))):
            if PILLOW < 13 and (isinstance(how.resize, tuple) or height > 2 * width):
                continue
            image = photograph(height, width, seed=height)
            content = io.BytesIO()
            image.save(content, "PNG")
            got = page.tab.evaluate(code, [base64.b64encode(content.getvalue()).decode(), how.to_dict()])
            expected = how.transform(image).reshape(-1)
            np.testing.assert_array_equal(np.array(got, np.uint8), expected, f"{height} x {width}, {how}")


def test_what_is_missing_is_said(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "gone.onnx"
    copy.write_bytes(exported.model.path.read_bytes())
    with served(intvit.OnnxModel.load(copy), ort_web, exported.model) as url:
        copy.write_bytes(b"no model")
        page = opened(url, expect_errors=True)
        page.tab.wait_for_selector("#error:not([hidden])")
        assert page.text("#error").startswith("ONNX Runtime cannot load this model: ")
        copy.unlink()
        page.tab.reload()
        page.tab.wait_for_selector("#error:not([hidden])")
        assert page.text("#error") == "model.onnx is missing: gone.onnx is gone from the server's disk"
        assert page.tab.is_disabled("#file")


def test_a_browser_without_webassembly(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, chromium: Any
) -> None:
    with served(exported.model, ort_web, exported.model) as url:
        tab = chromium.new_page()
        tab.add_init_script("delete globalThis.WebAssembly")
        tab.goto(url)
        tab.wait_for_selector("#error:not([hidden])")
        assert "WebAssembly" in tab.inner_text("#error")
        tab.close()


def test_a_server_that_does_not_answer(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, photograph: Photograph
) -> None:
    """The classes are shown all the same."""
    with served(exported.model, ort_web, exported.model) as url:
        page = opened(url, expect_errors=True)
        page.tab.wait_for_selector("body.ready")
        page.tab.route("**/logits", lambda route: route.abort())
        choose(page, photograph(60, 80))
        assert page.text("#verdict-title") == "Not compared"
        assert "does not answer" in page.text("#verdict-text")
        assert page.tab.locator("#top .label").count() == 5


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_overflows_sideways(
    served: Serve, opened: Opened, exported: "Pair", ort_web: Path, photograph: Photograph, width: int
) -> None:
    with served(exported.model, ort_web, exported.model) as url:
        page = opened(url, viewport={"width": width, "height": 800})
        choose(page, photograph(60, 80))
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width


def test_deit_tiny_in_the_browser(
    served: Serve, opened: Opened, export: Export, ort_web: Path, data_folder: Path
) -> None:
    """20 photographs: every logit as in the reference, at several batch sizes; one more as a file."""
    pytest.importorskip("timm")
    from intvit.data import Source
    from intvit.models import resolve

    protocol = Preprocessing(size=(224, 224), resize=256)
    source = Source(data_folder / "imagenet_val1300", protocol)
    (batch,) = source.batches(28, 28)
    calibration, pixels = np.split(batch.values, [8])
    deit = resolve("timm:deit_tiny_patch16_224", data_folder / "deit_tiny_patch16_224.safetensors").module
    reference = intvit.quantize(deit, protocol.normalize(calibration), preprocessing=protocol)
    exported = export(reference)
    expected = reference.integers(pixels)[0]
    assert source.files is not None
    with served(exported.model, ort_web, exported.model) as url:
        page = opened(f"{url}?batch=any")
        for images, logits in ((pixels[:1], expected[:1]), (pixels[1:3], expected[1:3]), (pixels, expected)):
            (got,), compared = page.classify(images)
            np.testing.assert_array_equal(got, logits)
            assert compared["equal"] == compared["total"] == logits.size
        page.tab.set_input_files("#file", source.files[8])
        page.wait()
        assert page.text("#verdict-title") == "1000 of 1000 logits equal"
