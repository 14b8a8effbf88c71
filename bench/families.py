"""A matrix of models by name: captured, integer-only, bit-exact, how near to float, how fast. JSON and Markdown.

    python bench/families.py --readme README.md
    python bench/families.py timm:swin_tiny_patch4_window7_224 transformers:Dinov2Model
    python bench/families.py --continue --timeout 1800
    python bench/families.py --artifacts DIR --rounds 0; python bench/families.py --artifacts DIR --latency

Each model has a process of its own, at its published configuration with random weights. DIR/families.json is written
after every model and keeps what was found before: a finding replaces that of the same model. The last line above
measures latency by itself, which needs an idle machine while nothing else here does.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import family_table
from family_list import FAMILIES, Entry, entry_of

from intvit.bench.machine import describe
from intvit.bench.matrix import MODULE

Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "models",
        nargs="*",
        default=[entry.name for entry in FAMILIES],
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, transformers:CLASS or package.module:function; by default the whole list",
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results"), metavar="DIR")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="leave out models that passed before")
    parser.add_argument("--timeout", type=float, default=1200, metavar="SECONDS", help="for a model")
    parser.add_argument("--plain", action="store_true", help="leave constants as the library made them")
    parser.add_argument("--rounds", type=int, default=7, help="of the latency; 0 leaves it out")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="keeps the modules here")
    parser.add_argument("--latency", action="store_true", help="only this, of the modules in --artifacts")
    parser.add_argument("--readme", type=Path, metavar="FILE", help=f"puts the table behind {family_table.MARKER}")
    parser.add_argument("--table", action="store_true", help="make the tables again, and measure nothing")
    options = parser.parse_args()
    if options.latency and (options.artifacts is None or options.rounds < 1 or options.go_on):
        parser.error("--latency needs --artifacts and at least one round, and is for models that passed")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "families.json"
    found: list[Found] = json.loads(path.read_text()) if path.is_file() else []
    passed = {finding["model"] for finding in found if finding["passed"]}
    for name in [] if options.table else options.models:
        if options.go_on and name in passed:
            continue
        known = next((other for other in found if other["model"] == name), None)
        if options.latency and (known is None or not (kept(options.artifacts, name) / MODULE).is_file()):
            print(f"{name}: no module is kept: examine it with --artifacts first", flush=True)
            continue
        finding = examined(entry_of(name), options, known)
        found = [*(other for other in found if other["model"] != name), finding]
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(outcome(finding), flush=True)
    found = in_order(found)
    (options.out / "families.md").write_text(family_table.markdown(found))
    if options.readme is not None:
        text = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(family_table.inserted(text, found), encoding="utf-8")
    print(path, options.out / "families.md", sep="\n")
    failed = [finding["model"] for finding in found if not finding["passed"]]
    if failed:
        sys.exit(f"not everything holds for {len(failed)} of {len(found)}: {', '.join(failed)}")


def examined(entry: Entry, options: argparse.Namespace, known: Found | None = None) -> Found:
    """What `one_family.py` finds in a process of its own; what it had found where that process fails."""
    print(f"{entry.name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
        out = Path(folder) / "finding.json"
        if options.latency:
            out.write_text(json.dumps(known))
        command = [sys.executable, str(Path(__file__).with_name("one_family.py")), *_arguments(entry, options)]
        command += ["--out", str(out)]
        try:
            done = subprocess.run(command, timeout=options.timeout, stderr=subprocess.PIPE, text=True)
            said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            reason = f"exit code {done.returncode}: {said}" if done.returncode else None
        except subprocess.TimeoutExpired:
            reason = f"not done after {options.timeout:.0f} s"
        finding: Found = json.loads(out.read_text()) if out.is_file() else {"model": entry.name, "reasons": {}}
    if reason is not None:
        step = "latency" if options.latency else next(reversed(finding["reasons"]), "build")
        finding = {**finding, "passed": False, "reasons": {**finding["reasons"], step: reason}}
    if options.latency:
        return {**(known or {}), **finding}
    return {**finding, "family": entry.family, "options": entry.options, "plain": options.plain, "machine": describe()}


def kept(artifacts: Path, name: str) -> Path:
    """The folder of a model."""
    return artifacts / name.replace(":", "-")


def _arguments(entry: Entry, options: argparse.Namespace) -> list[str]:
    """Of `one_family.py` for a model."""
    found = [entry.name, "--options", json.dumps(entry.options), "--rounds", str(options.rounds)]
    found += ["--size", str(entry.size)] if entry.size else []
    found += ["--artifacts", str(kept(options.artifacts, entry.name))] if options.artifacts else []
    return found + [f"--{name}" for name in ("plain", "latency") if getattr(options, name)]


def outcome(finding: Found) -> str:
    """One line, and one for each reason."""
    lines = [f"{'passed' if finding['passed'] else 'FAILED'}  {finding['model']}"]
    lines += [f"    {step}: {reason}".replace("\n", "\n      ") for step, reason in finding["reasons"].items()]
    if finding.get("sqnr"):
        lines[0] += f"  {min(finding['sqnr']):.1f} dB"
    return "\n".join(lines)


def in_order(found: list[Found]) -> list[Found]:
    """As in the list, and what is not in it behind."""
    order = {entry.name: i for i, entry in enumerate(FAMILIES)}
    return sorted(found, key=lambda finding: order.get(finding["model"], len(order)))


if __name__ == "__main__":
    main()
