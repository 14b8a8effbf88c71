"""Accuracy of a model in integers, by preset and bits, beside other runtimes' int8: JSON and a Markdown table.

    python bench/accuracy.py timm:deit_tiny_patch16_224 --weights FILE --data DIR --labels CSV --calib 100 --skip 100 \
        --resize 256 --out bench/results
    python bench/accuracy.py timm:deit_tiny_patch16_224 ... --forms W4A8 ort --images 40 --out few
    python bench/accuracy.py timm:deit_tiny_patch16_224 ... --continue --out bench/results

Each form has a process of its own. DIR/accuracy.json and .md are written after every form and keep what was measured
before: a row replaces that of the same form on the same images. Every form is scored on the same images, which come by
file name and are none of those that calibrate.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import accuracy_table
from accuracy_forms import FORMS, Setting

from intvit.bench.machine import cores, describe
from intvit.cli.options import check_images
from intvit.errors import IntvitError
from intvit.files import check_folder, write_text

CHILD = Path(__file__).with_name("accuracy_row.py")
Row = dict[str, Any]


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(IntvitError.exit_code, f"error: {message}\n")


def main() -> None:
    parser = parser_of_options()
    options = parser.parse_args()
    try:
        setting = setting_of(options)
        check_folder(options.out)
        found = read(options.out / "accuracy.json")
        found = all_measured(setting, options, found)
    except IntvitError as error:
        parser.error(str(error))
    failed = [row["form"] for row in found if row["protocol"] == setting.protocol and "reason" in row]
    print(options.out / "accuracy.json", options.out / "accuracy.md", sep="\n")
    if failed:
        sys.exit(f"no figures for {', '.join(failed)}: see the reasons")


def parser_of_options() -> Parser:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="timm:NAME, torchvision:NAME, hf:FOLDER or package.module:function")
    parser.add_argument("--weights", help="a file, 'pretrained' or 'random'")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a folder of images")
    parser.add_argument("--labels", type=Path, required=True, metavar="CSV", help="file,class of those that are scored")
    parser.add_argument("--calib", type=whole, default=100, help="images that calibrate, the first by file name")
    parser.add_argument("--skip", type=whole, help="images before those that are scored; by default those of --calib")
    parser.add_argument("--images", type=whole, help="score at most so many")
    parser.add_argument("--resize", type=whole, help="the shorter side, where it is not the model's own")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--threads", type=whole, default=cores())
    parser.add_argument("--timeout", type=float, default=7200, metavar="SECONDS", help="for a form")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="leave out what has figures already")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    return parser


def whole(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def setting_of(options: argparse.Namespace) -> Setting:
    """The model and its images, which are there; raises `IntvitError`."""
    skip = options.calib if options.skip is None else options.skip
    if skip < options.calib:
        raise IntvitError(f"--skip {skip}: the {options.calib} images of --calib would be scored too; skip these")
    files, _ = check_images(options.data, skip, options.images, options.labels)
    if files is None or not options.data.is_dir():
        raise IntvitError(f"{options.data}: labels belong to files; give a folder of images")
    return Setting(
        options.model,
        options.weights,
        str(options.data),
        str(options.labels),
        options.calib,
        skip,
        len(files),
        options.resize,
        options.threads,
    )


def read(path: Path) -> list[Row]:
    """The rows of earlier measurements."""
    try:
        found: list[Row] = json.loads(path.read_text()) if path.is_file() else []
        accuracy_table.markdown(found)
    except (ValueError, KeyError, TypeError) as error:
        raise IntvitError(f"{path}: this script did not write it ({type(error).__name__}); move it away") from error
    return found


def all_measured(setting: Setting, options: argparse.Namespace, found: list[Row]) -> list[Row]:
    """What was found before with what is measured now, both files written after every form."""
    for form in dict.fromkeys(options.forms):
        same = [row for row in found if row["form"] == form and row["protocol"] == setting.protocol]
        if options.go_on and any("accuracy" in row for row in same):
            continue
        print(f"{form} ...", file=sys.stderr, flush=True)
        row = {"form": form, "protocol": setting.protocol, "machine": describe(), **measured(setting, form, options)}
        found = [*(other for other in found if other not in same), row]
        write_text(options.out, "accuracy.json", json.dumps(found, indent=1) + "\n")
        write_text(options.out, "accuracy.md", accuracy_table.markdown(found))
        print(outcome(row), flush=True)
    return found


def measured(setting: Setting, form: str, options: argparse.Namespace) -> Row:
    """What `accuracy_row.py` writes in a process of its own, or why it wrote nothing.

    Raises `IntvitError` where that process finds the input at fault.
    """
    with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, str(CHILD), form, json.dumps(asdict(setting)), "--out", str(out)]
        try:
            done = subprocess.run(command, timeout=options.timeout, stderr=subprocess.PIPE, text=True)
        except subprocess.TimeoutExpired:
            return {"reason": f"not done after {options.timeout:g} s"}
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        if done.returncode == IntvitError.exit_code:
            raise IntvitError(said)
        if done.returncode < 0:
            return {"reason": f"ended by {signal.Signals(-done.returncode).name}"}
        if done.returncode > 0:
            return {"reason": f"exit code {done.returncode}: {said}"}
        row: Row = json.loads(out.read_text())
        return row


def outcome(row: Row) -> str:
    """One line."""
    if "reason" in row:
        return f"{row['form']}: FAILED: {row['reason']}"
    found, made = row["accuracy"], row["calibration"]
    near = f"agreement {100 * found['agreement']['value']:.2f} %, cosine {found['cosine']['value']:.4f}"
    cost = "" if made is None else f"; {made['seconds']:.0f} s, {made['peak'] / 2**30:.2f} GiB"
    return f"{row['form']}: top-1 {100 * found['top1']['value']:.2f} %, {near}{cost}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the process of a form, too
    main()
