"""The forms of a float model whose accuracy `accuracy.py` compares, and on which images; imports no library."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intvit.bench.names import PEERS


@dataclass(frozen=True)
class Form:
    """How a table calls it; what `intvit.quantize` is told where it is ours, or the peer (`intvit.bench.names`)."""

    title: str
    ours: Mapping[str, Any] | None = None
    peer: str | None = None

    @property
    def exact(self) -> bool:
        """Whether it is the float model itself."""
        return self.ours is None and self.peer is None


FORMS = {
    "float32": Form("float32"),
    "W8A8": Form("W8A8", {}),
    "accurate": Form("W8A8, accurate", {"preset": "accurate"}),
    "paper": Form("W8A8, paper", {"preset": "paper"}),
    "W4A8": Form("W4A8", {"bits": "W4A8"}),
    "W6A6": Form("W6A6", {"bits": "W6A6"}),
    "W4A4": Form("W4A4", {"bits": "W4A4"}),
    "ort": Form(PEERS["onnx-int8"], peer="onnx-int8"),
    "openvino": Form(PEERS["openvino-int8"], peer="openvino-int8"),
}


@dataclass(frozen=True)
class Setting:
    """A float model and its images: by file name, the first `calib` calibrate, and `images` after `skip` are scored."""

    model: str
    weights: str | None
    data: str
    labels: str
    calib: int
    skip: int
    images: int
    resize: int | None
    threads: int

    @property
    def protocol(self) -> dict[str, Any]:
        """What makes figures comparable: the same, wherever the files lie."""
        places = {name: getattr(self, name) for name in ("weights", "data", "labels")}
        names = {name: place and Path(place).absolute().name for name, place in places.items()}
        return {**vars(self), **names}
