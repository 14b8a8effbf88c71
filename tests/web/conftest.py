"""What the tests of the page need: an exported tiny model, onnxruntime-web, Chromium, and a server for each page."""

import base64
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray

import intvit
from intvit.model import Model
from intvit.serve import Exported, Server, site
from intvit.web import RUNTIME, runtime_folder

Serve = Callable[..., AbstractContextManager[str]]


@contextmanager
def served(model: Exported, runtime: Path, against: Model) -> Iterator[str]:
    """The address of a server for `model`, compared with `against`, while the block runs."""
    with Server("127.0.0.1", 0, site(model, runtime, against, "the reference")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(name="served")
def served_fixture() -> Serve:
    """`with served(model, runtime, against) as url`."""
    return served


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder with files named like those of onnxruntime-web, for tests without a browser."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).write_text(f"// {name}")
    return folder


@pytest.fixture(scope="session")
def ort_web() -> Path:
    """onnxruntime-web, which npm installs."""
    folder = os.environ.get("INTVIT_ORT_WEB")
    if not folder:
        pytest.skip("INTVIT_ORT_WEB is not set (the folder of npm's package onnxruntime-web)")
    return runtime_folder(Path(folder))


@dataclass
class Page:
    """A page of a playwright browser, and the errors that it reports."""

    tab: Any
    errors: list[str]

    def classify(self, pixels: NDArray[np.uint8]) -> tuple[list[NDArray[Any]], dict[str, Any]]:
        """The outputs by the page's own code, and its comparison of them with the server's."""
        answer = self.tab.evaluate(
            """async (text) => {
                const pixels = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                const { outputs } = await window.intvit.classify(pixels);
                const { matches, ...compared } = await window.intvit.compare(pixels, outputs);
                return [outputs, compared];
            }""",
            base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode(),
        )
        outputs, compared = answer
        arrays = []
        for output in outputs:
            dtype = np.int32 if output["integer"] else np.float32
            arrays.append(np.array(output["values"], dtype).reshape(output["shape"]))
        return arrays, compared

    def wait(self) -> None:
        """Until the chosen image is through."""
        self.tab.wait_for_selector("body[data-state=done]", timeout=120_000)

    def text(self, selector: str) -> str:
        """What a visitor reads there."""
        found: str = self.tab.inner_text(selector)
        return found


Opened = Callable[..., Page]


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    """Opens an address and waits for the model; an error on the console fails the test, unless it is expected."""
    pages: list[tuple[Page, bool]] = []

    def open_page(url: str, expect_errors: bool = False, **options: Any) -> Page:
        tab = chromium.new_page(**options)
        page = Page(tab, [])

        def stray(asked: str) -> None:
            if not asked.startswith(("blob:", url.partition("?")[0])):
                page.errors.append(f"a request beyond the server: {asked}")

        pages.append((page, expect_errors))
        tab.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: page.errors.append(str(error)))
        tab.on("request", lambda request: stray(request.url))
        tab.goto(url)
        if not expect_errors:
            tab.wait_for_selector("body.ready, #error:not([hidden])", timeout=120_000)
            assert tab.is_hidden("#error"), tab.inner_text("#error")
        return page

    yield open_page
    for page, expected in pages:
        page.tab.close()
        assert expected or not page.errors, page.errors


@dataclass(frozen=True)
class Pair:
    """An exported model, and the reference that it was made from."""

    model: intvit.OnnxModel
    reference: intvit.IntegerModel


Export = Callable[..., Pair]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`export(**options)`: the tiny model, exported so, to a file called `name`."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

    def make(reference: intvit.IntegerModel | None = None, name: str = "m.onnx", **options: Any) -> Pair:
        from intvit.to_onnx.file import export_onnx

        reference = reference or tiny.integer_model()
        path = tmp_path_factory.mktemp("exported") / name
        export_onnx(reference, **options).save(path)
        return Pair(intvit.OnnxModel.load(path), reference)

    return make
