"""The server of the page alone: what it answers, what it refuses, and where it listens. No browser."""

import http.client
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tiny

from intvit.errors import IntvitError
from intvit.input_grid import InputGrid
from intvit.metadata import Metadata
from intvit.serve import AT_ONCE, HEADERS, MOST_BYTES, Server, site, weight_files
from intvit.web import FOLDER, PAGE, RUNTIME, runtime_folder

if TYPE_CHECKING:
    from conftest import Pair

Answer = tuple[int, dict[str, str], bytes]
Serve = Callable[..., AbstractContextManager[str]]
Export = Callable[..., "Pair"]


def ask(url: str, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Status, headers and body; the path is sent as it is."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def send(url: str, text: str) -> bytes:
    """The whole answer to a request that is sent as it is."""
    with socket.create_connection(urlsplit(url).netloc.split(":"), timeout=60) as connection:
        connection.sendall(text.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


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
        host = urlsplit(url).netloc
        connection.sendall(f"POST /logits HTTP/1.1\r\nHost: {host}\r\n{header}\r\n".encode("latin-1"))
        answer = connection.makefile("rb").read()
    assert re.match(rb"HTTP/1.1 (411|413) ", answer), answer


def test_a_body_that_ends_early(url: str) -> None:
    head = f"POST /logits HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: 3072\r\n\r\n"
    answer = send(url, head + "\0" * 100)
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
    """The file that the model refers to; not another, one whose name only occurs in it, or one of another pattern."""
    name, absent, mentioned = (f"m.onnx.{16 * digit}.data" for digit in "0ab")
    locations = b"".join(b"\x0a\x08location\x12" + bytes([len(x)]) + x.encode() for x in (name, "secret.data"))
    model.path.write_bytes(locations + mentioned.encode())
    for file in (name, absent, mentioned, "secret.data"):
        model.path.with_name(file).write_bytes(b"weights")
    with served(model, runtime, tiny.integer_model()) as url:
        facts = json.loads(ask(url, "/model.json")[2])
        assert facts["data"] == [{"path": name, "url": f"data/{name}"}]
        assert facts["bytes"] == model.path.stat().st_size + 7
        assert ask(url, f"/data/{name}")[2] == b"weights"
        assert [ask(url, f"/data/{file}")[0] for file in (absent, mentioned, "secret.data")] == [404] * 3


@pytest.mark.parametrize("stem", ["m", 140 * "m"])
def test_the_weights_of_an_exported_model(stem: str, export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the package `onnx` reads, also after the model was renamed; a long name has a length of two bytes."""
    monkeypatch.setattr("intvit.to_onnx.file.LIMIT", 0)
    path = export(name=f"{stem}.onnx").model.path
    (data,) = (file for file in path.parent.iterdir() if file != path)
    (path.parent / f"{stem}.onnx.{16 * 'a'}.data").write_bytes(b"of another export")
    assert weight_files(path) == [data]
    assert weight_files(path.rename(path.with_name("renamed.onnx"))) == [data]


def test_a_model_of_float_arrays_is_refused(model: File, runtime: Path) -> None:
    """Pixels are not its integers: the page would show classes of nothing."""
    metadata = replace(model.metadata, input_grid=InputGrid.of_range(-2.0, 2.0, tiny.SHAPE))
    with pytest.raises(IntvitError, match=r"m\.onnx: calibrated on float arrays, not on 8-bit images") as refused:
        site(replace(model, metadata=metadata), runtime, tiny.integer_model(), "the reference")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost", "127.0.0.1:1", "", "[::1]:{port}0"]
)
def test_other_names_are_refused(url: str, host: str) -> None:
    """A page of another site may have given its own name this address (DNS rebinding)."""
    host = host.format(port=urlsplit(url).port)
    for path in ("/", "/model.json", "/model.onnx"):
        assert ask(url, path, Host=host)[0] == 403
    assert ask(url, "/logits", "POST", tiny.pixels(1).tobytes(), Host=host)[0] == 403


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_own_names_are_answered(url: str, name: str) -> None:
    host = f"{name}:{urlsplit(url).port}"
    assert ask(url, "/", Host=host)[0] == 200
    own = {"Host": host, "Origin": f"http://{host.lower()}", "Sec-Fetch-Site": "same-origin"}
    assert ask(url, "/logits", "POST", tiny.pixels(1).tobytes(), **own)[0] == 200


def test_a_public_address_has_any_name(model: File, runtime: Path) -> None:
    with Server("0.0.0.0", 0, site(model, runtime, tiny.integer_model(), "")) as server:
        assert server.answers_to("example.org")
    with Server("127.0.0.1", 0, server.content) as server:
        assert not server.answers_to("example.org")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_pages_of_other_sites_get_nothing_computed(url: str, headers: dict[str, str]) -> None:
    status, _, text = ask(url, "/logits", "POST", tiny.pixels(1).tobytes(), **headers)
    assert (status, text) == (403, b"only this server's own page may ask for that\n")


def test_what_is_held_at_once_is_limited(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While so many requests are being read another waits, and is told so; their places become free again."""
    monkeypatch.setattr("intvit.serve.SECONDS_TO_WAIT", 1)
    host = urlsplit(url).netloc
    head = f"POST /logits HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3072\r\n\r\n".encode()
    pixels = tiny.pixels(1).tobytes()
    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            stack.enter_context(socket.create_connection(host.split(":"), timeout=60)).sendall(head)
        statuses = {ask(url, "/logits", "POST", pixels)[0] for _ in range(3)}
        assert 503 in statuses <= {200, 503}, "the first may come before the others have their places"
        assert ask(url, "/model.json")[0] == 200
    monkeypatch.setattr("intvit.serve.SECONDS_TO_WAIT", 60)
    assert ask(url, "/logits", "POST", pixels)[0] == 200


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("PUT / HTTP/1.1", 501), ("nonsense", 400), ("GET / HTTP/x", 400), ("GET / HTTP/3.0", 505), ("G" * 70000, 414)],
    ids=["method", "nonsense", "version", "new version", "long"],
)
def test_what_the_base_class_refuses(url: str, request_line: str, status: int) -> None:
    """With the same headers as everything else, as one line of text."""
    head, _, body = send(url, f"{request_line}\r\nHost: x\r\n\r\n").decode().partition("\r\n\r\n")
    first, *headers = head.split("\r\n")
    assert first.startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: text/plain; charset=utf-8" in headers
    assert {f"{name}: {value}" for name, value in HEADERS.items()} <= set(headers)
    assert body.count("\n") == 1 and "<" not in body


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ([[9.0, 8, 7, 6, 5, 0]], {"largest": 0, "likeliest": {"same": 5, "of": 5}, "equal": 6}),
        ([[9.5, 8, 7, 6, 5, 0]], {"largest": 0.5, "likeliest": {"same": 5, "of": 5}, "equal": 5}),
        ([[9.0, 7, 8, 6, 5, 0]], {"largest": 1, "likeliest": {"same": 1, "of": 5}, "equal": 4}),
        ([[7.0, 8, 9, 6, 5, 0]], {"largest": 2, "likeliest": {"same": 0, "of": 5}, "equal": 4}),
        ([[9.0, 8], [6, 6.5], [5, 0]], {"largest": 1, "likeliest": {"same": 0, "of": 2}, "equal": 5}),
        ([[[9.0, 8, 7, 6, 5, 1]]], {"largest": 1, "likeliest": None, "equal": 5}),
    ],
)
def test_how_the_page_compares_floats(theirs: list[Any], expected: dict[str, Any]) -> None:
    """The largest difference, and how many of the likeliest classes are the same; no tolerance decides."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    other = np.array(theirs)
    ours = np.array([9, 8, 7, 6, 5, 0] if len(theirs) == 1 else [9, 8, 7, 6.5, 5, 0]).reshape(other.shape)
    sides = [[{"shape": x.shape, "values": x.reshape(-1).tolist()}] for x in (ours, other)]
    call = f"console.log(JSON.stringify(difference(...{json.dumps(sides)}, false)))"
    code = (FOLDER / "model.js").read_text("utf-8") + call
    run = subprocess.run([node, "--input-type=module", "-"], input=code, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    got = json.loads(run.stdout)
    assert {name: got[name] for name in expected} == expected


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
