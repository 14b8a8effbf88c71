"""The integer dialect `intvit::`: every operation of an integer graph, and the definition of its every bit.

An operation is one decorated function (`intvit.dialect.operation`): its signature is the schema, its body the
bit-exact reference on integer tensors, its `check` enforces dtypes and shapes, its `ranges` bounds every intermediate.
Importing this package registers the operations with `torch.library`.

| file             | operations                                             |
|------------------|--------------------------------------------------------|
| `patchify.py`    | `patchify`: image to rows of patches                   |
| `linear.py`      | `linear`: int8 product with constant weights           |
| `requantize.py`  | `requantize`, `add`: dyadic rescaling, residual sum    |
| `attention.py`   | `attention`: scores, Shiftmax and `P·V`                |
| `gelu.py`        | `gelu`: ShiftGELU                                      |
| `layernorm.py`   | `layernorm`: integer LayerNorm                         |
| `tokens.py`      | `concat_tokens`, `select_tokens`: movement             |
| `published.py`   | the forms of the I-ViT paper and code, defects included |
"""

from intvit.dialect import attention, gelu, layernorm, linear, patchify, published, requantize, tokens
from intvit.dialect.operation import OPERATIONS, Operation, operation_of

__all__ = [
    "OPERATIONS",
    "Operation",
    "attention",
    "gelu",
    "layernorm",
    "linear",
    "operation_of",
    "patchify",
    "published",
    "requantize",
    "tokens",
]
