"""The Markdown of `families.py`: a row for each model, the reasons of what failed, and the short table of README.

python bench/families.py --table
"""

import re
from collections.abc import Iterator
from typing import Any

from table import machine_line, megabytes, number, short, table

Found = dict[str, Any]
MARKER = "<!-- families -->"


def markdown(found: list[Found]) -> str:
    """Everything that was found."""
    if not found:
        return "Nothing was examined.\n"
    passed = sum(finding["passed"] for finding in found)
    lines = ["# Models", "", f"Everything holds for {passed} of {len(found)}.", ""]
    lines += [*dict.fromkeys(machine_line(finding["machine"]) for finding in found), ""]
    lines += [*full_table(found), ""]
    reasons = [
        f"- {finding['model']}, {step}: {' '.join(reason.split())}"
        for finding in found
        for step, reason in finding["reasons"].items()
    ]
    lines += ["## What failed", "", *reasons, ""] if reasons else []
    return "\n".join(lines).rstrip() + "\n"


def inserted(text: str, found: list[Found]) -> str:
    """`text` with the short table behind the marker, in the place of the one there; `ValueError` without a marker."""
    pattern = re.compile(rf"^{re.escape(MARKER)}\n(?:\|.*\n)*", re.MULTILINE)
    if not pattern.search(text):
        raise ValueError(f"no line {MARKER}: it says where the table belongs")
    lines = "".join(f"{line}\n" for line in short_table(found))
    return pattern.sub(lambda match: f"{MARKER}\n{lines}", text, count=1)


def short_table(found: list[Found]) -> Iterator[str]:
    """What a reader wants to know of each model."""
    headings = ["model", "library", "captured", "integer-only", "no overflow", "bit-exact", "SQNR", "agreement", "ms"]
    return table([*headings, "float32 / ours"], ([*_proofs(each), *_nearness(each), *_speed(each)] for each in found))


def full_table(found: list[Found]) -> Iterator[str]:
    """The same with what it cost."""
    headings = ["model", "library", "captured", "integer-only", "no overflow", "bit-exact", "SQNR", "agreement", "ms"]
    headings = ["family", *headings, "float32 / ours", "float32 ms", "image", "parameters", "quantize s", "compile s"]
    rows = ([each["family"], *_proofs(each), *_nearness(each), *_speed(each), *_costs(each)] for each in found)
    return table([*headings, "module's memory", "process's memory"], rows)


def _proofs(finding: Found) -> list[str]:
    exact = [finding.get("tvm_exact"), finding.get("onnx_exact")]
    both = None if exact == [None, None] else all(exact)
    names = ("captured", "integer_only", "overflow_free")
    library = finding["model"].partition(":")[0]
    return [short(finding["model"]), library, *(_yes(finding.get(name)) for name in names), _yes(both)]


def _nearness(finding: Found) -> list[str]:
    sqnr, agreement = finding.get("sqnr"), finding.get("agreement")
    return [f"{min(sqnr):.1f} dB" if sqnr else "", "" if agreement is None else f"{agreement:.0f} %"]


def _speed(finding: Found) -> list[str]:
    latency = finding.get("latency")
    return ["", ""] if latency is None else [number(latency["intvit"]["median"]), f"{latency['ratio']['value']:.2f}"]


def _costs(finding: Found) -> list[str]:
    latency, seconds, memory = finding.get("latency"), finding.get("seconds", {}), finding.get("memory") or {}
    return [
        number(latency["torch-f32"]["median"]) if latency else "",
        "x".join(map(str, finding.get("input_shape", ()))),
        f"{finding.get('parameters', 0) / 1e6:.1f} M",
        *(f"{seconds[step]:.1f}" if step in seconds else "" for step in ("quantize", "build")),
        *(megabytes(memory[kind]) if kind in memory else "" for kind in ("module", "process")),
    ]


def _yes(outcome: bool | None) -> str:
    return "" if outcome is None else "yes" if outcome else "**no**"
