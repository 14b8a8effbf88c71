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
| `biased_attention.py` | `biased_attention`: with a bias, some keys masked |
| `gelu.py`        | `gelu`: ShiftGELU                                      |
| `activation.py`  | `activation`: a function of one number, from a table   |
| `levels.py`      | `levels`: 8-bit integers on fewer levels, from a table |
| `multiply.py`    | `multiply`: product by elements                        |
| `divide.py`      | `divide`: quotient of two computed tensors             |
| `layernorm.py`   | `layernorm`: integer LayerNorm                         |
| `rmsnorm.py`     | `rmsnorm`: blocks of channels by their root mean square |
| `groupnorm.py`   | `groupnorm`: over the tokens and a block of channels   |
| `product.py`     | `product`: int8 product of two activations             |
| `softmax.py`     | `softmax`: Shiftmax of rows, by itself                 |
| `tokens.py`      | `concat_tokens`, `select_tokens`: movement             |
| `rearrange.py`   | `rearrange`: movement of blocks of channels            |
| `windows.py`     | `unfold`, `depthwise`, `pool`: windows of images       |
| `published.py`   | the forms of the I-ViT paper and code, defects included |
"""

from intvit.dialect import (
    activation,
    attention,
    biased_attention,
    divide,
    gelu,
    groupnorm,
    layernorm,
    levels,
    linear,
    multiply,
    patchify,
    product,
    published,
    rearrange,
    requantize,
    rmsnorm,
    softmax,
    tokens,
    windows,
)
from intvit.dialect.operation import OPERATIONS, Operation, operation_of

__all__ = [
    "OPERATIONS",
    "Operation",
    "activation",
    "attention",
    "biased_attention",
    "divide",
    "gelu",
    "groupnorm",
    "layernorm",
    "levels",
    "linear",
    "multiply",
    "operation_of",
    "patchify",
    "product",
    "published",
    "rearrange",
    "requantize",
    "rmsnorm",
    "softmax",
    "tokens",
    "windows",
]
