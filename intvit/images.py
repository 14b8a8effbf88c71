"""The image files of a folder in a fixed order, and their classes from a CSV file.

The order is by file name alone, not by folder, so the first N images are the same ones whether a validation set lies in
one folder or in a folder per class, and are not N images of the first class.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from intvit.errors import IntvitError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))


def image_files(path: str | Path) -> list[Path]:
    """All images under a folder (hidden ones aside), sorted by file name; or the one image that `path` is."""
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise IntvitError(
                f"{path}: not an image, .npy or .npz file by its name; give a folder of images or one of these"
            )
        return [path]
    if not path.is_dir():
        raise IntvitError(f"{path}: no such folder; check the path of the images")
    files: list[Path] = []
    seen: set[str] = set()
    others = 0
    try:
        for folder, subfolders, names in os.walk(path, onerror=_refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link to a folder above
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            visible = [name for name in names if not name.startswith(".")]
            found = [Path(folder, name) for name in visible if Path(name).suffix.lower() in IMAGE_SUFFIXES]
            others += len(visible) - len(found)
            files += found
    except OSError as error:
        raise IntvitError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error
    if not files:
        holds = f"holds {others} files but no images" if others else "is empty"
        raise IntvitError(f"{path}: the folder {holds}; give one with {', '.join(sorted(IMAGE_SUFFIXES))} files")
    return sorted(files, key=lambda file: (file.name, file.relative_to(path).as_posix()))


def read_labels(path: str | Path) -> dict[str, int]:
    """The class index of every file in a CSV file of `file,class`; a header may name these columns among others."""
    path = Path(path)
    labels: dict[str, int] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.reader(lines, skipinitialspace=True)
            columns = ["file", "class"]
            for row in rows:
                cells = [cell.strip() for cell in row]
                if rows.line_num == 1 and {"file", "class"} <= {cell.lower() for cell in cells}:
                    columns = [cell.lower() for cell in cells]
                elif any(cells):
                    name, index = (dict(zip(columns, cells, strict=False)).get(key, "") for key in ("file", "class"))
                    _add(labels, name, index, f"{path}:{rows.line_num}", ",".join(row))
    except FileNotFoundError:
        raise IntvitError(f"{path}: no such file; check the path of the labels") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise IntvitError(f"{path}: cannot be read as CSV ({error}); write lines of file,class as UTF-8") from error
    if not labels:
        raise IntvitError(f"{path}: holds no labels; write a line of file,class for each image")
    return labels


def labels_for(names: Iterable[str], labels: Mapping[str, int], source: str | Path = "labels") -> list[int]:
    """The class of each image, by its path in the folder or else by its file name."""
    names = list(names)
    found = [labels.get(name, labels.get(name.rpartition("/")[2])) for name in names]
    missing = [name for name, index in zip(names, found, strict=True) if index is None]
    if missing:
        more = " ..." if len(missing) > 3 else ""
        shown = ", ".join(missing[:3]) + more
        raise IntvitError(f"{source}: no label for {len(missing)} of {len(names)} images ({shown}); add their lines")
    return [index for index in found if index is not None]


def _add(labels: dict[str, int], name: str, index: str, where: str, line: str) -> None:
    if not name or not index.isdecimal():
        raise IntvitError(f"{where}: {line!r} is not a file name and a class index (0, 1, ...); mend this line")
    if labels.setdefault(name.removeprefix("./"), int(index)) != int(index):
        raise IntvitError(f"{where}: {name} has two classes; remove one line")


def _refuse(error: OSError) -> None:
    raise error
