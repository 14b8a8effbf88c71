"""The page that `intvit serve` shows: an exported model in the browser, an image in, its classes out. No build step.

| file            | what                                                                                |
|-----------------|-------------------------------------------------------------------------------------|
| `index.html`    | the page's text and structure                                                       |
| `style.css`     | its looks, light and dark                                                           |
| `result.css`    | that of a result                                                                    |
| `demo.js`       | what a visitor does and sees                                                        |
| `model.js`      | the model in onnxruntime-web; the comparison of its outputs with the server's       |
| `preprocess.js` | from an image to the model's pixels, by the stored preprocessing                    |
| `resample.js`   | Pillow's resizing, bit for bit                                                      |
| `logits.js`     | the picture of all logits                                                           |
| `samples.js`    | pictures that are drawn there                                                       |
| `format.js`     | numbers and comparisons as text                                                     |
| `icon.svg`      | the mark                                                                            |
"""

from pathlib import Path

from intvit.errors import IntvitError

FOLDER = Path(__file__).parent
PAGE = (
    "index.html",
    "style.css",
    "result.css",
    "demo.js",
    "model.js",
    "preprocess.js",
    "resample.js",
    "logits.js",
    "samples.js",
    "format.js",
    "icon.svg",
)
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of onnxruntime-web: its interface, and ONNX Runtime in WebAssembly."""
_PLACES = ("", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist")


def runtime_folder(folder: Path) -> Path:
    """Where the files of onnxruntime-web lie: `folder` itself, its `dist`, or the package below it.

    Raises `IntvitError` where they are missing.
    """
    for place in _PLACES:
        if all((folder / place / name).is_file() for name in RUNTIME):
            return folder / place
    missing = next(name for name in RUNTIME if not (folder / name).is_file())
    raise IntvitError(
        f"{folder}: holds no {missing}; `npm install onnxruntime-web`, then --runtime node_modules/onnxruntime-web/dist"
    )
