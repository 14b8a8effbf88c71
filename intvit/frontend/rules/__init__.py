"""One rule per ATen operation that computes: from values to values, emitting canonical float operations.

| file             | what                                                                       |
|------------------|----------------------------------------------------------------------------|
| `products.py`    | linear, matmul, softmax, attention                                         |
| `einsum.py`      | einsum as matmul                                                           |
| `elementwise.py` | functions of one number; sums and products of two tensors                  |
| `images.py`      | convolution, pooling, resizing                                             |
| `norms.py`       | LayerNorm, batch, group and RMS norm, normalized vectors                   |
| `movement.py`    | what only moves values: on index maps; concatenation, padding, reductions  |
"""

from intvit.frontend.rules import einsum, elementwise, images, movement, norms, products
from intvit.frontend.rules.registry import RULES

__all__ = ["RULES", "einsum", "elementwise", "images", "movement", "norms", "products"]
