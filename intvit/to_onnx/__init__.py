"""Integer models as ONNX: `export_onnx` makes the model, `OnnxFile` checks and saves it. Needs the package `onnx`.

| file               | what                                                                                  |
|--------------------|---------------------------------------------------------------------------------------|
| `file.py`          | `export_onnx`, and `OnnxFile`: choices, metadata, checks, one file or two             |
| `external_data.py` | weights in a second file, where the model is over 2 GB                                |
| `seal.py`          | a digest of the content, by which a changed file is found                             |
| `sizes.py`         | names for sizes that depend on a free batch                                           |
| `scope.py`         | where nodes are written: the graph, or the body of a model-local function             |
| `rearrange.py`     | movement in whichever nodes are cheapest, for both profiles                           |
| `boundary.py`      | the ends of a graph: uint8 pixels, integers or their scaled values                    |
| `integer/`         | the profile `integer`: each operation of the dialect in standard integer operators    |
| `qdq/`             | the profile `qdq`: float operators between QuantizeLinear and DequantizeLinear        |
"""

from intvit.errors import IntvitError

try:
    import onnx as _onnx  # noqa: F401
except ImportError as error:
    raise IntvitError("exporting needs the package onnx: pip install 'intvit[onnx]'") from error
