"""From an image file to the model's input, exactly as the model's own library does it, with numpy and Pillow only.

timm, torchvision and transformers (its PIL processors) all resize with Pillow and crop the middle; they differ in how
the size is chosen, in the rounding of an odd margin and in what becomes of transparency. `Preprocessing` names those
differences, so the pixels are equal bit for bit, it is stored in the artifact as JSON, and the runtime needs no torch.
EXIF orientation is ignored, as the three libraries ignore it.
"""

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from intvit.errors import IntvitError

if TYPE_CHECKING:
    from PIL import Image

_FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
Fit = Literal["squash", "cover", "contain"]
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the model sees it; `pixel * rescale`, then `(x - mean) / std`."""

    size: tuple[int, int]  # the model's input (height, width)
    resize: int | tuple[int, int] | None = None  # shorter side, or (height, width) understood by `fit`
    fit: Fit = "squash"  # a pair: exactly it, at least it, or inside it with a border
    crop: Literal["center", "center_floor", "none"] = "center"  # margin rounded as torchvision, timm | transformers
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    rescale: float = 1 / 255
    alpha: Literal["drop", "white"] = "drop"  # transparency is dropped, or laid on white (transformers' convert_rgb)
    order: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Refuse what would fail later, image by image."""
        choices: dict[str, tuple[str, ...]] = {
            "fit": ("squash", "cover", "contain"),
            "crop": ("center", "center_floor", "none"),
            "interpolation": _FILTERS,
            "alpha": ("drop", "white"),
            "order": ("rgb", "bgr"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                value = getattr(self, field)
                raise IntvitError(f"preprocessing: {field}={value!r} is not known; choose one of {', '.join(allowed)}")
        if len(self.mean) != len(self.std) or len(self.mean) not in _MODES:
            raise IntvitError(f"preprocessing: {len(self.mean)} means and {len(self.std)} stds; give 1 or 3 of each")
        sides = (
            *self.size,
            *(self.resize if isinstance(self.resize, tuple) else (1 if self.resize is None else self.resize,)),
        )
        if any(not isinstance(side, int) or side < 1 for side in sides):
            raise IntvitError(f"preprocessing: size={self.size} and resize={self.resize} must be positive integers")
        if not np.isfinite([*self.mean, *self.std, self.rescale]).all() or min(*self.std, self.rescale) <= 0:
            raise IntvitError("preprocessing: mean, std and rescale must be finite, std and rescale positive")

    @property
    def channels(self) -> int:
        """The number of channels of the model's input."""
        return len(self.mean)

    def load(self, path: str | Path) -> npt.NDArray[np.uint8]:
        """Open an image file: uint8 [H, W, C] at the model's size."""
        pillow = _pillow()
        try:
            with pillow.open(path) as image:
                rgb = self._convert(image)
        except FileNotFoundError:
            raise IntvitError(f"{path}: no such image; check the path") from None
        except Exception as error:  # decoders raise anything from OSError to struct.error on corrupt bytes
            reason = "not an image that Pillow can read" if isinstance(error, pillow.UnidentifiedImageError) else error
            raise IntvitError(f"{path}: cannot read this image ({reason}); remove or replace it") from error
        return self._fit(rgb, str(path))

    def transform(self, image: "Image.Image", name: str = "image") -> npt.NDArray[np.uint8]:
        """What `load` does, for an image that is already open."""
        return self._fit(self._convert(image), name)

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [N, H, W, C] to the float model's input, float32 [N, C, H, W]; 256 values per channel, so a table."""
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != self.channels:
            got = f"{pixels.dtype} {list(pixels.shape)}"
            raise IntvitError(f"normalize: expected uint8 [N, H, W, {self.channels}], got {got}")
        scaled = (np.arange(256, dtype=np.float64) * self.rescale).astype(np.float32)
        values = np.empty((len(pixels), self.channels, *pixels.shape[1:3]), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = (scaled - np.float32(mean)) / np.float32(std)
            np.take(table, pixels[..., channel], out=values[:, channel])
        return values

    def override(self, **changes: Any) -> "Preprocessing":
        """A copy with other fields; `size` alone keeps the share that is cropped away by scaling `resize` with it."""
        changes = {name: _tupled(value) for name, value in changes.items() if value is not None}
        unknown = sorted(set(changes) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            known = ", ".join(field.name for field in dataclasses.fields(self))
            raise IntvitError(f"preprocessing: no field named {', '.join(unknown)}; the fields are {known}")
        if isinstance(changes.get("size"), int):
            changes["size"] = (changes["size"], changes["size"])
        if "size" in changes and "resize" not in changes and "crop" not in changes and self.resize is not None:
            changes["resize"] = self._scaled_resize(changes["size"])
        for field in ("mean", "std"):
            if isinstance(changes.get(field), (int, float)):
                changes[field] = (float(changes[field]),) * self.channels
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`; unknown or missing fields are refused."""
        try:
            return cls(**{name: _tupled(value) for name, value in fields.items()})
        except TypeError as error:
            reason = str(error).replace("Preprocessing.__init__() ", "")
            raise IntvitError(f"preprocessing: {reason}; expected the fields that `to_dict` writes") from None

    def _convert(self, image: "Image.Image") -> "Image.Image":
        transparent = "A" in image.getbands() or image.info.get("transparency") is not None
        if self.alpha == "white" and transparent:
            pillow, image = _pillow(), image.convert("RGBA")
            image = pillow.alpha_composite(pillow.new("RGBA", image.size, (255, 255, 255, 255)), image)
        return image.convert(_MODES[self.channels])

    def _fit(self, image: "Image.Image", name: str) -> npt.NDArray[np.uint8]:
        """Resize, crop, and check that the model's size came out."""
        height, width = self._resized(image.height, image.width)
        image = image.resize((width, height), _pillow().Resampling[self.interpolation.upper()])
        pixels = np.asarray(image, np.uint8).reshape(height, width, self.channels)
        if self.crop != "none":
            pixels = self._cropped(pixels)
        if pixels.shape[:2] != self.size:
            got, want = ("x".join(map(str, shape)) for shape in (pixels.shape[:2], self.size))
            raise IntvitError(f"{name}: is {got} after preprocessing, the model takes {want}; set resize or crop")
        return np.ascontiguousarray(pixels if self.order == "rgb" else pixels[..., ::-1])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, int):
            long = int(self.resize * max(height, width) / min(height, width))
            return (long, self.resize) if width <= height else (self.resize, long)
        if self.fit == "squash":
            return self.resize
        ratios = height / self.resize[0], width / self.resize[1]
        ratio = min(ratios) if self.fit == "cover" else max(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _cropped(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The middle of the image; a smaller one is first padded with black (`contain`: with the mean)."""
        floor = self.crop == "center_floor"
        for axis, want in enumerate(self.size):
            missing = want - pixels.shape[axis]
            if missing > 0:
                before = -(-missing // 2) if floor else missing // 2
                border = list(pixels.shape)
                border[axis] = missing
                fill = np.array([round(255 * m) if self.fit == "contain" else 0 for m in self.mean], np.uint8)
                first, last = np.split(np.broadcast_to(fill, border), [before], axis)
                pixels = np.concatenate([first, pixels, last], axis)
            margin = pixels.shape[axis] - want
            start = margin // 2 if floor else round(margin / 2)
            pixels = pixels[start : start + want] if axis == 0 else pixels[:, start : start + want]
        return pixels

    def _scaled_resize(self, size: tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(self.resize, int):
            return max(1, round(self.resize * min(size) / min(self.size)))
        assert self.resize is not None
        (height, width), (old_height, old_width) = self.resize, self.size
        return max(1, round(height * size[0] / old_height)), max(1, round(width * size[1] / old_width))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _pillow() -> Any:
    """`PIL.Image`, imported with the first image file: arrays need no Pillow."""
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise IntvitError("image files need Pillow: pip install pillow, or give arrays") from error
