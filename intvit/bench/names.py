"""The names of the peers; no library is imported."""

import difflib
from collections.abc import Iterable

from intvit.errors import IntvitError

PEERS = {
    "torch-f32": "torch float32, eager",
    "torch-bf16": "torch bfloat16, eager",
    "torch-compile-f32": "torch.compile float32",
    "torch-compile-bf16": "torch.compile bfloat16",
    "onnx-f32": "ONNX Runtime float32",
    "onnx-int8": "ONNX Runtime int8 (QDQ)",
    "openvino-f32": "OpenVINO float32",
    "openvino-bf16": "OpenVINO bfloat16",
    "openvino-int8": "OpenVINO int8 (NNCF)",
}
FAMILIES = {
    "torch": ("torch-f32", "torch-bf16"),
    "torch-compile": ("torch-compile-f32", "torch-compile-bf16"),
    "onnx": ("onnx-f32", "onnx-int8"),
    "openvino": ("openvino-f32", "openvino-bf16", "openvino-int8"),
}


def expand(names: Iterable[str]) -> list[str]:
    """Peers of names and families, each once, in the order given; raises `IntvitError` for an unknown one."""
    found: dict[str, None] = {}
    for name in names:
        if name not in PEERS and name not in FAMILIES:
            close = difflib.get_close_matches(name, [*FAMILIES, *PEERS], 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise IntvitError(
                f"unknown peer {name!r}: choose {', '.join(FAMILIES)}, or one of {', '.join(PEERS)}{hint}"
            )
        found |= dict.fromkeys(FAMILIES.get(name, (name,)))
    return list(found)
