"""The server of the page alone: what it answers, what it refuses, and where it listens. No browser."""

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tiny

from intvit.errors import IntvitError
from intvit.metadata import Metadata
from intvit.serve import MOST_BYTES, Server, site
from intvit.web import FOLDER, PAGE, RUNTIME, runtime_folder

Answer = tuple[int, dict[str, str], bytes]
Serve = Callable[..., AbstractContextManager[str]]


def ask(url: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Status, headers and body; the path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


@dataclass(frozen=True)
class File:
    """Bytes in the place of an exported model: the server does not run it."""

    path: Path
    digest: str
    metadata: Metadata
    profile: str = "integer"


@pytest.fixture
def model(tmp_path: Path) -> File:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"onnx" * 1000)
    return File(path, tiny.integer_model().digest, tiny.integer_model().metadata)


@pytest.fixture
def url(model: File, runtime: Path, served: Serve) -> Iterator[str]:
    with served(model, runtime, tiny.integer_model()) as address:
        yield address


def logits(url: str, pixels: np.ndarray, query: str = "") -> dict[str, Any]:
    status, _, body = ask(url, f"/logits{query}", "POST", pixels.tobytes())
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


def test_the_page_and_its_runtime(url: str, runtime: Path, model: File) -> None:
    for name in PAGE:
        assert ask(url, f"/{name}")[2] == (FOLDER / name).read_bytes()
    assert ask(url, "/?threads=2")[2] == (FOLDER / "index.html").read_bytes()
    for name in RUNTIME:
        assert ask(url, f"/runtime/{name}")[2] == (runtime / name).read_bytes()
    assert ask(url, "/model.onnx")[2] == model.path.read_bytes()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/demo.js", "text/javascript"),
        ("/style.css", "text/css"),
        ("/runtime/ort.wasm.min.mjs", "text/javascript"),
        ("/runtime/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("/model.json", "application/json"),
        ("/model.onnx", "application/octet-stream"),
    ],
)
def test_types_and_isolation(url: str, path: str, kind: str) -> None:
    """WebAssembly gets threads only where both headers are set, on scripts as well, which become workers."""
    status, headers, body = ask(url, path)
    assert status == 200
    assert headers["Content-Type"].startswith(kind)
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    head, head_headers, nothing = ask(url, path, "HEAD")
    assert (head, head_headers["Content-Length"], nothing) == (200, str(len(body)), b"")


def test_facts(url: str) -> None:
    facts = json.loads(ask(url, "/model.json")[2])
    metadata = tiny.integer_model().metadata
    assert facts["digest"] == tiny.integer_model().digest
    assert (facts["name"], facts["profile"], facts["bytes"], facts["data"]) == ("tiny", "integer", 4000, [])
    assert facts["input"] == {"shape": [3, 32, 32], "scale": list(tiny.GRID.scale), "offset": list(tiny.GRID.offset)}
    assert facts["outputs"] == [{"shape": [10], "scale": metadata.output_scales[0]}]
    assert facts["preprocessing"] is None


@pytest.mark.parametrize("count", [1, 3])
def test_logits_are_the_models(url: str, count: int) -> None:
    pixels = tiny.pixels(count)
    (output,) = logits(url, pixels)["outputs"]
    (expected,) = tiny.integer_model().integers(pixels)
    assert output["shape"] == [count, 10]
    assert output["values"] == expected.reshape(-1).tolist()
    (floats,) = logits(url, pixels, "?as=float32")["outputs"]
    assert floats["dtype"] == "float32"
    assert floats["values"] == tiny.integer_model()(pixels).reshape(-1).tolist()


def test_logits_for_several_at_once(url: str) -> None:
    images = tiny.pixels(12)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: logits(url, images[i : i + 1])["outputs"][0]["values"], range(12)))
    assert answers == tiny.integer_model().integers(images)[0].tolist()


def test_who_computes_the_logits(url: str, model: File, runtime: Path) -> None:
    """Its name comes along; a model of another digest is refused."""
    assert logits(url, tiny.pixels(1))["by"] == "the reference"
    with pytest.raises(IntvitError, match=r"other.intvit: not the model that .*m\.onnx"):
        site(model, runtime, tiny.integer_model("paper"), "other.intvit")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/logits", b"", 400, "0 bytes are not a whole number of images of 3072 (32 x 32 x 3)"),
        ("/logits", bytes(3071), 400, "3071 bytes"),
        ("/logits", bytes(3073), 400, "3073 bytes"),
        ("/logits?as=text", bytes(3072), 400, "int32 or float32"),
        ("/model.json", bytes(3072), 404, "no such page"),
    ],
)
def test_wrong_requests(url: str, path: str, body: bytes, status: int, words: str) -> None:
    got, _, text = ask(url, path, "POST", body)
    assert got == status
    assert words in text.decode()
    assert text.decode().count("\n") == 1
    assert logits(url, tiny.pixels(1))["outputs"], "the server goes on"


@pytest.mark.parametrize("length", ["", "-1", "x", "1e3", "²", str(MOST_BYTES + 1), "9" * 400])
def test_wrong_lengths(url: str, length: str) -> None:
    """Refused without reading a byte of the body."""
    with socket.create_connection(urlsplit(url).netloc.split(":"), timeout=60) as connection:
        header = f"Content-Length: {length}\r\n" if length else ""
        connection.sendall(f"POST /logits HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode("latin-1"))
        answer = connection.makefile("rb").read()
    assert re.match(rb"HTTP/1.1 (411|413) ", answer), answer


def test_a_body_that_ends_early(url: str) -> None:
    with socket.create_connection(urlsplit(url).netloc.split(":"), timeout=60) as connection:
        connection.sendall(b"POST /logits HTTP/1.1\r\nHost: x\r\nContent-Length: 3072\r\n\r\n" + bytes(100))
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"100 of 3072 bytes came" in answer


@pytest.mark.parametrize(
    "path",
    [
        "/../serve.py",
        "/runtime/../../serve.py",
        "/%2e%2e/serve.py",
        "//etc/passwd",
        "/runtime/",
        "/__init__.py",
        "/data/x",
    ],
)
def test_other_files_are_not_served(url: str, path: str) -> None:
    assert ask(url, path)[0] == 404


def test_a_model_that_is_gone(url: str, model: File) -> None:
    model.path.unlink()
    status, _, text = ask(url, "/model.onnx")
    assert (status, text) == (404, b"m.onnx is gone from the server's disk\n")


def test_weights_in_a_file_of_their_own(model: File, runtime: Path, served: Serve) -> None:
    """The file that the model names, not another of that kind."""
    model.path.write_bytes(b"...location m.onnx.0123.data...")
    for name in ("m.onnx.0123.data", "m.onnx.4567.data"):
        model.path.with_name(name).write_bytes(b"weights")
    with served(model, runtime, tiny.integer_model()) as url:
        facts = json.loads(ask(url, "/model.json")[2])
        assert facts["data"] == [{"path": "m.onnx.0123.data", "url": "data/m.onnx.0123.data"}]
        assert facts["bytes"] == model.path.stat().st_size + 7
        assert ask(url, "/data/m.onnx.0123.data")[2] == b"weights"
        assert ask(url, "/data/m.onnx.4567.data")[0] == 404


def test_addresses(model: File, runtime: Path) -> None:
    """Only the host that was given; a port in use and a host that is not this machine's are errors of one line."""
    content = site(model, runtime, tiny.integer_model(), "")
    with Server("127.0.0.1", 0, content) as server:
        host, port = server.server_address[:2]
        assert (host, server.url) == ("127.0.0.1", f"http://127.0.0.1:{port}/")
        for address in (("127.0.0.1", port), ("192.0.2.1", 0), ("no host", 0), ("127.0.0.1", 70000)):
            with pytest.raises(IntvitError, match=r"choose another --host or --port") as refused:
                Server(*address, content)
            assert "\n" not in str(refused.value)


def test_where_the_runtime_lies(tmp_path: Path, runtime: Path) -> None:
    assert runtime_folder(runtime) == runtime_folder(runtime.parent) == runtime
    package = tmp_path / "node_modules" / "onnxruntime-web"
    package.mkdir(parents=True)
    runtime.rename(package / "dist")
    assert {runtime_folder(folder).resolve() for folder in (tmp_path, package.parent, package)} == {package / "dist"}
    (package / "dist" / RUNTIME[2]).unlink()
    with pytest.raises(IntvitError, match=rf"{package / 'dist'}: holds no {RUNTIME[2]}; `npm install onnxruntime-web`"):
        runtime_folder(package / "dist")


def test_the_page_asks_for_nothing_else() -> None:
    """Every file that the page names is one of its own, and every file of its folder is listed."""
    assert {path.name for path in FOLDER.iterdir() if path.suffix != ".py" and path.is_file()} == set(PAGE)
    for name in PAGE:
        text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, name
        for named in re.findall(r"(?:from|src=|href=|url\()\s*[\"']?(?:\./)?([\w-]+\.(?:js|css|svg))", text):
            assert named in PAGE, (name, named)
