"""What can be shown of one model, in one process: `intvit.bench.matrix` as JSON, written anew at every step.

    python bench/one_family.py timm:swin_tiny_patch4_window7_224 --out swin.json

`bench/families.py` runs this once for each model.
"""

import argparse
import json
import tempfile
from pathlib import Path

from intvit.bench.matrix import Finding, examine
from intvit.bench.subjects import subject
from intvit.bench.timing import Turns


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="timm:NAME, torchvision:NAME, transformers:CLASS or package.module:function")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="for its constructor")
    parser.add_argument("--size", type=int, help="of its images, where the library does not tell")
    parser.add_argument("--plain", action="store_true", help="leave constants as the library made them")
    parser.add_argument("--rounds", type=int, default=7, help="of the latency; 0 leaves it out")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()

    def write(finding: Finding) -> None:
        options.out.write_text(json.dumps(finding.to_json()) + "\n")

    turns = Turns(rounds=options.rounds, limit=120) if options.rounds else None
    with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
        made = subject(options.model, options.options, options.size, options.plain)
        write(examine(made, Path(folder), turns, write))


if __name__ == "__main__":
    main()
