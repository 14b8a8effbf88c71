"""A small server for the page that runs an exported model in the browser, and the logits that it is compared with.

| request                        | answer                                                                             |
|--------------------------------|------------------------------------------------------------------------------------|
| `GET /`, `/demo.js`, ...       | the page (`intvit.web`)                                                            |
| `GET /runtime/...`             | the files of onnxruntime-web that it needs                                         |
| `GET /model.onnx`, `/data/...` | the exported model and the file of its weights, where that is a file of its own    |
| `GET /model.json`              | name, digest, labels, preprocessing, input, outputs and profile of the model       |
| `POST /logits`                 | for the uint8 pixels of any number of images, the integers that this side computes |
| `POST /logits?as=float32`      | the same as float32 outputs, for a model whose file gives floats                   |

A path is looked up in a table, never in the file system. COOP and COEP headers isolate the page, without which a
browser gives WebAssembly one thread. Pages of other sites get nothing computed, and nothing at all where they
gave a loopback address a name of theirs (DNS rebinding). Python's standard library only.
"""

import http.client
import ipaddress
import json
import mmap
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from intvit.errors import IntvitError
from intvit.metadata import Metadata
from intvit.model import Model
from intvit.web import FOLDER, PAGE, RUNTIME

MOST_BYTES = 32 << 20
"""Of one request: 222 images of 224x224."""
AT_ONCE = 4
"""Requests whose pixels are read or computed at a time: what they hold in memory is limited."""
SECONDS_TO_SEND = 60
SECONDS_TO_WAIT = 60
"""For one of those places."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
WEIGHTS = re.compile(r".+\.[0-9a-f]{16}\.data")
"""Names of `intvit.to_onnx.external_data`, which needs the package onnx."""
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Logits:
    """What the server computes, one request at a time."""

    def __init__(self, model: Model, by: str) -> None:
        """`by` is what the page calls `model`."""
        self.metadata, self.by = model.metadata, by
        self._model = model
        self._one_at_a_time = threading.Lock()

    def pixels(self, body: bytes) -> NDArray[np.uint8]:
        """The images [N, H, W, C] of a request; raises `IntvitError` unless they are whole."""
        channels, height, width = self.metadata.input_grid.shape
        size = channels * height * width
        if not body or len(body) % size:
            raise IntvitError(
                f"{len(body)} bytes are not a whole number of images of {size} ({height} x {width} x {channels})"
            )
        return np.frombuffer(body, np.uint8).reshape(-1, height, width, channels)

    def answer(self, body: bytes, floats: bool) -> dict[str, Any]:
        """The outputs, as JSON values, and the seconds they took; raises `IntvitError` for pixels that do not fit."""
        pixels = self.pixels(body)
        with self._one_at_a_time:
            start = time.perf_counter()
            outputs = self._floats(pixels) if floats else self._model.integers(pixels)
            seconds = time.perf_counter() - start
        rows = [{"dtype": str(x.dtype), "shape": x.shape, "values": x.reshape(-1).tolist()} for x in outputs]
        return {"outputs": rows, "seconds": round(seconds, 6), "by": self.by}

    def _floats(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        outputs = self._model(pixels)
        return outputs if isinstance(outputs, tuple) else (outputs,)


@dataclass(frozen=True)
class Site:
    """Everything that can be asked for: files and texts by their path, and the logits."""

    files: Mapping[str, Path]
    facts: bytes
    logits: Logits


class Exported(Protocol):
    """What the page needs to know of an exported model: `OnnxModel`."""

    path: Path
    profile: str
    digest: str
    metadata: Metadata


def site(model: Exported, runtime: Path, against: Model, by: str) -> Site:
    """The page for an exported model, run by the files in `runtime`, compared with `against`, which it calls `by`.

    Raises `IntvitError` where `against` is another model, and for a model whose integers are no pixels.
    """
    path = model.path
    if not model.metadata.input_grid.takes_pixels:
        raise IntvitError(
            f"{path}: calibrated on float arrays, not on 8-bit images, which are all that the page can give it: "
            "quantize it with images"
        )
    if getattr(against, "digest", model.digest) != model.digest:
        raise IntvitError(f"{by}: not the model that {path} was exported from (another digest); export it again")
    data = weight_files(path)
    files = {f"/{name}": FOLDER / name for name in PAGE} | {"/": FOLDER / "index.html"}
    files |= {f"/runtime/{name}": runtime / name for name in RUNTIME}
    files |= {"/model.onnx": path} | {f"/data/{file.name}": file for file in data}
    total = sum(file.stat().st_size for file in (path, *data))
    facts = {
        **described(model.metadata),
        "digest": model.digest,
        "profile": model.profile,
        "bytes": total,
        "data": [{"path": file.name, "url": f"data/{file.name}"} for file in data],
        "by": by,
    }
    return Site(files, json.dumps(facts).encode(), Logits(against, by))


def described(metadata: Metadata) -> dict[str, Any]:
    """What the page needs to feed a model and to read its outputs."""
    grid, preprocessing = metadata.input_grid, metadata.preprocessing
    outputs = zip(metadata.output_shapes, metadata.output_scales, strict=True)
    return {
        "name": metadata.name,
        "labels": metadata.labels,
        "preprocessing": None if preprocessing is None else preprocessing.to_dict(),
        "input": {"shape": grid.shape, "scale": grid.scale, "offset": grid.offset},
        "outputs": [{"shape": shape, "scale": scale} for shape, scale in outputs],
    }


def weight_files(path: Path) -> list[Path]:
    """The files of weights beside a model that is too large for one: those that it names as the location of some."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        beside = [data for data in sorted(path.parent.glob("*.data")) if WEIGHTS.fullmatch(data.name)]
        return [data for data in beside if content.find(_location(data.name)) >= 0]


def _location(name: str) -> bytes:
    """The pair of strings by which a tensor refers to its file, as protobuf has it: the fields 1 and 2."""
    text = os.fsencode(name)
    low, high = len(text) & 0x7F, len(text) >> 7
    return b"\x0a\x08location\x12" + (bytes([low | 0x80, high]) if high else bytes([low])) + text


class Server(ThreadingHTTPServer):
    """Listens on one host and port; `port` 0 takes a free one."""

    def __init__(self, host: str, port: int, content: Site) -> None:
        """Raises `IntvitError` where the address cannot be had."""
        self.content = content
        self.places = threading.BoundedSemaphore(AT_ONCE)
        try:
            self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            super().__init__((host, port), Handler)
        except OverflowError as error:
            raise _no_address(host, port, "no such port") from error
        except OSError as error:
            raise _no_address(host, port, error.strerror or str(error)) from error

    @property
    def url(self) -> str:
        """The page's address."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def answers_to(self, host: str) -> bool:
        """Whether a request's `Host` is a name of this server; on a public address any may be."""
        address, port = str(self.server_address[0]), int(self.server_address[1])
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            return True
        names = {*LOCAL_NAMES, f"[{address}]" if ":" in address else address}
        without_port = names if port == http.client.HTTP_PORT else set()
        return host.lower() in {f"{name}:{port}" for name in names} | without_port

    def server_bind(self) -> None:
        """Without asking a name server for this host's name, as the base class does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def _no_address(host: str, port: int, reason: str) -> IntvitError:
    return IntvitError(f"{host}, port {port}: {reason.lower()}; choose another --host or --port")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "intvit"
    sys_version = ""
    default_request_version = "HTTP/1.0"
    """Of a request that cannot be read: its answer has headers, which HTTP 0.9 has not."""
    timeout = SECONDS_TO_SEND

    @property
    def _server(self) -> Server:
        return cast(Server, self.server)

    @property
    def content(self) -> Site:
        """What the server has."""
        return self._server.content

    def do_GET(self) -> None:
        """A file, or the facts about the model."""
        if not self._server.answers_to(self.headers.get("Host", "")):
            return self._refuse(HTTPStatus.FORBIDDEN, "this server has another name")
        name = urlsplit(self.path).path
        if name == "/model.json":
            self._send(HTTPStatus.OK, "application/json", self.content.facts)
        elif name in self.content.files:
            self._send_file(self.content.files[name])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """The logits of some pixels."""
        if not (self._server.answers_to(self.headers.get("Host", "")) and self._from_here()):
            return self._refuse(HTTPStatus.FORBIDDEN, "only this server's own page may ask for that")
        address = urlsplit(self.path)
        if address.path != "/logits":
            return self._refuse(HTTPStatus.NOT_FOUND, "no such page")
        wanted = parse_qs(address.query).get("as", ["int32"])[-1]
        if wanted not in ("int32", "float32"):
            return self._refuse(HTTPStatus.BAD_REQUEST, "as must be int32 or float32")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "say how long the pixels are (Content-Length)")
        if len(length) > len(str(MOST_BYTES)) or int(length) > MOST_BYTES:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {MOST_BYTES} bytes in a request")
        if not self._server.places.acquire(timeout=SECONDS_TO_WAIT):
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests at once; try again")
        try:
            self._answer(int(length), floats=wanted == "float32")
        finally:
            self._server.places.release()

    def _from_here(self) -> bool:
        """Whether no page of another site asks: browsers say so, and other clients send neither header."""
        origin = self.headers.get("Origin")
        own = origin is None or origin.lower().partition("://")[2] == self.headers.get("Host", "").lower()
        return own and self.headers.get("Sec-Fetch-Site", "").lower() != "cross-site"

    def _answer(self, length: int, floats: bool) -> None:
        body = self.rfile.read(length)
        if len(body) < length:
            return self._refuse(HTTPStatus.BAD_REQUEST, f"{len(body)} of {length} bytes came")
        try:
            answer = self.content.logits.answer(body, floats)
        except IntvitError as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        self._send(HTTPStatus.OK, "application/json", json.dumps(answer).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._head(status, kind, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_file(self, path: Path) -> None:
        try:
            file = path.open("rb")
        except OSError:
            return self._refuse(HTTPStatus.NOT_FOUND, f"{path.name} is gone from the server's disk")
        with file:
            kind = TYPES.get(path.suffix, "application/octet-stream")
            self._head(HTTPStatus.OK, kind, os.fstat(file.fileno()).st_size)
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, such as another method, as everything else is refused."""
        self._refuse(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """One line; what may be left of the request is not read."""
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", f"{reason}\n".encode())

    def _head(self, status: HTTPStatus, kind: str, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Only what went wrong, and what was computed."""
        if self.command == "POST" or int(code) >= HTTPStatus.BAD_REQUEST:
            super().log_request(int(code), size)
