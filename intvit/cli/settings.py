"""Options of `quantize` that stand for objects: the preprocessing, the names of the classes, the passes."""

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intvit.errors import IntvitError
from intvit.preprocess import Preprocessing

if TYPE_CHECKING:
    from intvit.passes.base import Pass

_WORDNET = re.compile(r"n\d{8}\s+")


def changes(
    size_text: str | None,
    resize: str | None,
    crop: str | None,
    interpolation: str | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """What the options of the preprocessing say, None where they say nothing."""
    return {
        "size": size(size_text),
        "resize": side("--resize", resize),
        "crop": crop,
        "interpolation": interpolation,
        "mean": numbers("--mean", mean),
        "std": numbers("--std", std),
    }


def overridden(own: Preprocessing | None, model: str, changes: dict[str, Any], pictures: bool) -> Preprocessing | None:
    """The model's own preprocessing with the changes that were given on the command line.

    A model without one needs `--size` where the data are `pictures`; they are then resized to their shorter side.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    if own is not None:
        return own.override(**changes)
    if "size" in changes:
        return Preprocessing(size=changes["size"]).override(**{"resize": min(changes["size"]), **changes})
    if pictures or changes:
        raise IntvitError(
            f"{model}: its preprocessing is not known; give --size, and --resize, --mean, --std as trained"
        )
    return None


def side(option: str, text: str | None) -> int | tuple[int, int] | None:
    """`256`, or `HEIGHTxWIDTH`."""
    if text is None:
        return None
    if not re.fullmatch(r"\d+(x\d+)?", text):
        raise IntvitError(f"{option} {text}: write a number of pixels, or HEIGHTxWIDTH")
    sides = [int(part) for part in text.split("x")]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def size(text: str | None) -> tuple[int, int] | None:
    """The model's input: `224`, or `HEIGHTxWIDTH`."""
    sides = side("--size", text)
    return (sides, sides) if isinstance(sides, int) else sides


def numbers(option: str, text: str | None) -> tuple[float, ...] | float | None:
    """One number for all channels, or one for each: `0.485,0.456,0.406`."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise IntvitError(f"{option} {text}: write one number, or one for each channel: 0.485,0.456,0.406") from None
    return values if len(values) > 1 else values[0]


def described(preprocessing: Preprocessing | None) -> str:
    """One line for a person."""
    if preprocessing is None:
        return "none (arrays as they are)"
    p = preprocessing
    resize = "no resize" if p.resize is None else f"resize {_sides(p.resize)} {p.interpolation}"
    mean, std = (",".join(f"{value:g}" for value in values) for values in (p.mean, p.std))
    return f"{resize}, crop {p.crop} {_sides(p.size)}, mean {mean}, std {std}"


def class_names(path: Path) -> list[str]:
    """One name per line, in order of the classes; a WordNet number in front (`n01440764 tench`) is cut off."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise IntvitError(f"{path}: no such file; check the path of the class names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IntvitError(f"{path}: cannot be read as UTF-8 text ({error}); write one class name per line") from error
    if not lines:
        raise IntvitError(f"{path}: is empty; write one class name per line")
    return [_WORDNET.sub("", line.strip(), count=1) for line in lines]


def chosen_passes(names: str | None) -> "tuple[Pass, ...]":
    """The passes by name, in the order given; all of them by default."""
    from intvit.passes.pipeline import PASSES

    if names is None:
        return PASSES
    known = {step.name: step for step in PASSES}
    chosen = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"the passes are {', '.join(known)}"
            raise IntvitError(f"--passes: there is no pass {name!r}; {hint}")
        chosen.append(known[name])
    return tuple(chosen)


def _sides(sides: int | tuple[int, int]) -> str:
    return str(sides) if isinstance(sides, int) else "x".join(map(str, sides))
