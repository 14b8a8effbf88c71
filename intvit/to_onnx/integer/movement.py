"""`patchify`, `concat_tokens`, `select_tokens`: movement of tensors, no arithmetic."""

from intvit.to_onnx.rearrange import expanded
from intvit.to_onnx.scope import Scope


def patchify(s: Scope, image: str, *, grid: tuple[int, int], size: tuple[int, int], channels: int) -> str:
    """uint8 `[B, H, W, C]` to rows of patches, uint8: a pixel is a centred pixel raised by 128."""
    rows, columns = grid
    height, width = size
    patches = s.op("Reshape", image, s.int64(-1, rows, height, columns, width * channels))
    patches = s.op("Transpose", patches, perm=[0, 1, 3, 2, 4])
    return s.op("Reshape", patches, s.int64(-1, rows * columns, height * width * channels))


def concat_tokens(s: Scope, constant: str, x: str, *, tokens: int, channels: int) -> str:
    """Constant tokens int32 `[K, C]` before those of `x` int32 `[B, T, C]`."""
    return s.op("Concat", expanded(s, constant, x, tokens, channels), x, axis=1)


def select_tokens(s: Scope, x: str, *, start: int, stop: int) -> str:
    """Tokens `start` to `stop - 1`."""
    return s.op("Slice", x, s.int64(start), s.int64(stop), s.int64(1))
