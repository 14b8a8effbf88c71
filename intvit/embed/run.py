"""Classifies images with the model of this folder, which `intvit pack` wrote.

    python run.py cat.jpg dog.png
    python run.py images.npy --out logits.npy

A .npy file holds raw images, uint8 `[N, H, W, C]`, or normalized ones, float32 `[N, C, H, W]`; or one, without N.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="image files, or arrays of images (.npy)")
    parser.add_argument("--top", type=int, default=5, help="classes to print for each image")
    parser.add_argument("--batch", type=int, default=8, help="images of an array per run of the model")
    parser.add_argument("--out", type=Path, metavar="FILE.npy", help="where to write all outputs as well")
    options = parser.parse_args()
    if min(options.top, options.batch) < 1:
        fail("--top and --batch must be at least 1")
    if options.out is not None:
        check_out(options.out)
    try:
        import numpy

        import intvit
        from intvit.errors import IntvitError

        model = intvit.load(FOLDER / "model.so")
    except ImportError as error:
        needs = json.loads((FOLDER / "pack.json").read_text())["needs"]
        fail(f"{error}. This folder needs {needs}; here is Python {sys.version.split()[0]}")
    except IntvitError as error:
        fail(str(error))
    try:
        rows = [row for path in options.images for row in classified(model, path, options.batch, options.top)]
        if options.out is not None:
            numpy.save(options.out, numpy.stack(rows))
    except (IntvitError, OSError, ValueError, EOFError) as error:
        fail(str(error))


def check_out(path: Path) -> None:
    """Ends the program where an array cannot be written to `path`."""
    if path.suffix != ".npy":
        fail(f"--out {path}: the name must end in .npy")
    if not path.absolute().parent.is_dir():
        fail(f"--out {path}: the folder {path.absolute().parent} does not exist")


def classified(model: Any, path: Path, batch: int, top: int) -> Iterator[Any]:
    """Prints the likeliest classes of the images in a file, and gives the first output of each."""
    images = images_of(model, path)
    for start in range(0, len(images), batch):
        outputs = model(images[start : start + batch])
        for index, row in enumerate(outputs[0] if isinstance(outputs, tuple) else outputs, start):
            print(path if len(images) == 1 else f"{path}[{index}]")
            if row.ndim == 1:
                print_likeliest(row, model.metadata.labels or (), top)
            yield row


def images_of(model: Any, path: Path) -> Any:
    """The images of a file: an array with the batch first."""
    import numpy

    from intvit.errors import IntvitError

    if path.suffix == ".npy":
        images = numpy.load(path, allow_pickle=False)
        if images.ndim == 0 or images.size == 0:
            raise IntvitError(f"{path}: holds no images")
        return images[None] if images.ndim == 3 else images
    if model.metadata.preprocessing is None:
        raise IntvitError("this model stores no preprocessing, so image files cannot be run: give arrays (.npy)")
    return model.metadata.preprocessing.load(path)[None]


def print_likeliest(logits: Any, labels: Any, top: int) -> None:
    """The `top` classes of one image, likeliest first, with their probabilities."""
    import numpy

    shares = numpy.exp(logits.astype("float64") - logits.max())
    for index in numpy.argsort(-logits, kind="stable")[:top]:
        name = labels[index] if index < len(labels) else ""
        print(f"  {shares[index] / shares.sum():6.1%}  {index:>5}  {name}".rstrip())


def fail(reason: str) -> NoReturn:
    """Ends with exit code 2 and a line that says why."""
    print(f"error: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
