"""What can be shown of one model, in one process: `intvit.bench.matrix` as JSON, written anew at every step.

    python bench/one_family.py timm:swin_tiny_patch4_window7_224 --out swin.json

`bench/families.py` runs this once for each model. With `--latency` only the latency is measured again, of the module in
`--artifacts` where an earlier run left it, and put into the JSON of that run.
"""

import argparse
import json
import tempfile
from pathlib import Path

from intvit.bench.matrix import Finding, examine, measure
from intvit.bench.subjects import subject
from intvit.bench.timing import Turns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="timm:NAME, torchvision:NAME, transformers:CLASS or package.module:function")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="for its constructor")
    parser.add_argument("--size", type=int, help="of its images, where the library does not tell")
    parser.add_argument("--plain", action="store_true", help="leave constants as the library made them")
    parser.add_argument("--rounds", type=int, default=7, help="of the latency; 0 leaves it out")
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="keeps the module and the ONNX model here")
    parser.add_argument("--latency", action="store_true", help="only this, with the module in --artifacts")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    if options.latency and (options.artifacts is None or options.rounds < 1):
        parser.error("--latency needs --artifacts and at least one round")

    def write(finding: Finding) -> None:
        options.out.write_text(json.dumps(finding.to_json()) + "\n")

    turns = Turns(rounds=options.rounds, limit=120) if options.rounds else None
    made = subject(options.model, options.options, options.size, options.plain)
    if options.latency and turns is not None:
        finding = Finding.of_json(json.loads(options.out.read_text()))
        measure(made, options.artifacts, finding, turns)
        write(finding)
    elif options.artifacts is not None:
        options.artifacts.mkdir(parents=True, exist_ok=True)
        write(examine(made, options.artifacts, turns, write))
    else:
        with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
            write(examine(made, Path(folder), turns, write))


if __name__ == "__main__":
    main()
