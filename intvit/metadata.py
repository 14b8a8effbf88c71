"""What travels with an integer model through every artifact: how to feed it, and what its integers mean. No torch."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from intvit.errors import IntvitError
from intvit.input_grid import InputGrid
from intvit.preprocess import Preprocessing


@dataclass(frozen=True)
class Layer:
    """One operation of the float model and the integers that stand for its result.

    `snr` is the signal-to-noise ratio in dB against float on calibration images; the scale is the range over channels.
    """

    path: str
    operation: str
    node: str
    dtype: str
    scale: tuple[float, float]
    channels: int
    snr: float | None = None


@dataclass(frozen=True)
class Metadata:
    """Name, input, outputs (`output_scales[i] * integers`, `[batch, *output_shapes[i]]`), preprocessing and labels."""

    name: str
    preset: str
    version: str
    input_grid: InputGrid
    output_scales: tuple[float, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    layers: tuple[Layer, ...] = field(default=(), repr=False)
    bits: str = "W8A8"
    """Of weights and activations, as `intvit.bits` writes them."""

    def to_json(self) -> str:
        fields: dict[str, Any] = asdict(self)
        fields["preprocessing"] = None if self.preprocessing is None else self.preprocessing.to_dict()
        if self.bits == "W8A8":  # as files without this field are read
            del fields["bits"]
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Raises `IntvitError` where a field is missing or of another version."""
        try:
            fields = json.loads(text)
            grid = fields.pop("input_grid")
            preprocessing = fields.pop("preprocessing")
            labels = fields.pop("labels")
            return cls(
                **{
                    **fields,
                    "input_grid": InputGrid(
                        **{**grid, **{name: tuple(grid[name]) for name in ("scale", "offset", "shape")}}
                    ),
                    "output_scales": tuple(fields["output_scales"]),
                    "output_shapes": tuple(tuple(shape) for shape in fields["output_shapes"]),
                    "preprocessing": None if preprocessing is None else Preprocessing.from_dict(preprocessing),
                    "labels": None if labels is None else tuple(labels),
                    "layers": tuple(Layer(**{**row, "scale": tuple(row["scale"])}) for row in fields["layers"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise IntvitError(f"the metadata cannot be read ({error}): made by another version of intvit?") from error
