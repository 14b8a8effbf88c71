"""Images and outputs on a GPU: torch tensors, read and made without a copy. Never imports torch: its user has it."""

import sys
from collections.abc import Sequence
from typing import Any

from intvit.errors import IntvitError
from intvit.input_grid import InputGrid, require_finite

_CUDA = 2
"""A device of `__dlpack_device__`: `kDLCUDA` of DLPack's `dlpack.h`."""


def is_on_gpu(images: Any) -> bool:
    """Whether images lie on an NVIDIA GPU; raises `IntvitError` where they do, but are not a torch tensor."""
    if _is_torch(images):
        return bool(images.is_cuda)
    device = getattr(images, "__dlpack_device__", None)
    if device is None or device()[0] != _CUDA:
        return False
    raise IntvitError(
        f"images on a GPU must be a torch tensor, not {type(images).__name__}: torch.from_dlpack(images) makes one"
    )


def pixels_of(images: Any, grid: InputGrid) -> Any:
    """uint8 `[N, H, W, C]` of a torch tensor: itself, or made from normalized floats `[N, C, H, W]` on its device.

    Floats are rounded as `InputGrid.pixels` does, bit for bit, which waits for the device to tell that all are finite.
    Raises `IntvitError` for any other dtype or shape, for NaN or inf, and for pixels that lie elsewhere than in order.
    """
    grid.require(str(images.dtype).removeprefix("torch."), tuple(images.shape))
    torch = sys.modules["torch"]
    if images.dtype == torch.float32:
        return _rounded(torch, images.detach(), grid)
    if not images.is_contiguous():
        raise IntvitError("images on a GPU must be contiguous: give images.contiguous()")
    return images


def outputs_for(pixels: Any, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> list[Any]:
    """Empty tensors `[batch, *shape]` beside the pixels, for work on the device's current stream."""
    torch = sys.modules["torch"]
    return [
        torch.empty((len(pixels), *shape), dtype=getattr(torch, dtype), device=pixels.device)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def stream_of(pixels: Any) -> int:
    """torch's current stream of a tensor's device, a `cudaStream_t`."""
    return int(sys.modules["torch"].cuda.current_stream(pixels.device).cuda_stream)


def scaled(integers: Any, scale: float) -> Any:
    """float32 `scale * integers`, rounded as `Model.__call__` does."""
    return (integers.double() * scale).float()


def _is_torch(images: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(images, torch.Tensor)


def _rounded(torch: Any, images: Any, grid: InputGrid) -> Any:
    """Half to even in float64, as numpy rounds."""
    require_finite(torch.isfinite(images).all())
    scale, offset = (
        torch.tensor(values, dtype=torch.float64, device=images.device).reshape(-1, 1, 1)
        for values in (grid.scale, grid.offset)
    )
    nearest = ((images.double() - offset) / scale).round().clamp(0, 255).to(torch.uint8)
    return nearest.permute(0, 2, 3, 1).contiguous()
