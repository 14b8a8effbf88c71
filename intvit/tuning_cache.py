"""The file that keeps what tuning found: JSON, by target and kernel, the chosen cut and the seconds that it was worth.

It can be shipped: a machine that cannot run a target takes the choices of one that could.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intvit.errors import IntvitError
from intvit.files import write_atomically
from intvit.kernels.cut import Cut

FORMAT, VERSION = "intvit-tuning", 1


@dataclass(frozen=True)
class Found:
    """The best cut of a kernel, and the least seconds of one call with it and with the rule's."""

    cut: Cut
    seconds: float
    rule_seconds: float


Entries = dict[str, dict[str, Found]]


@dataclass
class TuningCache:
    """What is known, by target and name of the kernel; `path` is where it is kept, if anywhere."""

    path: Path | None = None
    entries: Entries = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | None) -> "TuningCache":
        """What `path` holds: nothing where it is not there yet. Raises `IntvitError` for a damaged or foreign file."""
        return cls(path, {} if path is None or not path.exists() else _read(path))

    def of(self, target: str) -> Mapping[str, Found]:
        """The kernels that are known for a target."""
        return self.entries.get(target, {})

    def add(self, target: str, found: Mapping[str, Found]) -> None:
        """Keeps what was found, in the file too, beside what others have written there meanwhile."""
        if not found:
            return
        self.entries = _merged(TuningCache.open(self.path).entries, self.entries, {target: dict(found)})
        if self.path is None:
            return
        targets = {name: {kernel: _plain(x) for kernel, x in known.items()} for name, known in self.entries.items()}
        text = json.dumps({"format": FORMAT, "version": VERSION, "targets": targets}, indent=1, sort_keys=True)
        with write_atomically(self.path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _merged(*all_entries: Entries) -> Entries:
    """All of them; the last one's word counts."""
    merged: Entries = {}
    for entries in all_entries:
        for target, known in entries.items():
            merged.setdefault(target, {}).update(known)
    return merged


def _plain(found: Found) -> dict[str, Any]:
    return {
        "tile": found.cut.tile,
        "splits": found.cut.splits,
        "seconds": found.seconds,
        "rule_seconds": found.rule_seconds,
    }


def _read(path: Path) -> Entries:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise IntvitError(f"{path}: cannot be read ({error.strerror}); give another file of tuning results") from error
    except (ValueError, RecursionError) as error:
        raise IntvitError(f"{path}: not a file of tuning results (no JSON); remove it or give another") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise IntvitError(f"{path}: not a file of tuning results; give the one that `intvit compile --tune` wrote")
    if content.get("version") != VERSION:
        raise IntvitError(f"{path}: tuning results of another version of intvit; remove it and tune again")
    try:
        return {
            target: {kernel: _found(**fields) for kernel, fields in known.items()}
            for target, known in content["targets"].items()
        }
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise IntvitError(f"{path}: damaged tuning results; remove it and tune again") from error


def _found(tile: Any, splits: Any, seconds: Any, rule_seconds: Any) -> Found:
    """An entry of the file; raises `ValueError` where it is none."""
    for size in (tile, splits):
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"{size!r} is no size")
    for time in (seconds, rule_seconds):
        if type(time) not in (int, float) or not 0 < time < math.inf:
            raise ValueError(f"{time!r} is no time")
    return Found(Cut(tile, splits), float(seconds), float(rule_seconds))
