"""Tables and pictures of what `gpu.py` and `gpu_sanitize.py` wrote; needs no GPU. Pictures need matplotlib.

    python bench/gpu_report.py small.json base.json sanitizer.json --out bench/results

writes gpu.json (all of it), gpu.md, and gpu-MODEL.png and .svg. The files must be of one kind of GPU; ratios and shares
of the roofs are within a file.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from table import number, short, table

from intvit.bench.kernels import Kernel, by_kernel
from intvit.bench.packages import import_package
from intvit.model import Step

Found = dict[str, Any]
OURS = "intvit"
PEERS = tuple(f"{d}-{h}" for d in ("f32", "tf32", "f16", "bf16") for h in ("eager", "graph", "compile"))
COLOURS = {"f32": "#9db4c8", "tf32": "#7ba0c0", "f16": "#5b87ad", "bf16": "#2c5a83", OURS: "#d9622b"}
LARGE = 0.05
"""Of a model's multiply-adds, from which a product counts as large."""
ROOFS = {"int8": ("int8 products", "TOPS"), "f16": ("fp16 products", "TFLOPS"), "bytes": ("copy", "TB/s")}
TERA = 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="JSON of gpu.py and gpu_sanitize.py")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    found = merged(json.loads(path.read_text()) for path in options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "gpu.md").write_text(markdown(found))
    for written in (options.out / "gpu.json", options.out / "gpu.md", *draw(found, options.out)):
        print(written)


def merged(results: Iterable[Found]) -> Found:
    """One measurement of several files: a later one of a model and batch size replaces an earlier one."""
    whole: Found = {"machines": [], "roofs": {}, "checks": [], "sizes": [], "failed": [], "sanitizer": {}}
    for found in results:
        whole["sanitizer"] |= {found["pack"]: found["verdicts"]} if "verdicts" in found else found.get("sanitizer", {})
        whole["machines"] += found.get("machines", [found["machine"]] if "machine" in found else [])
        whole["roofs"] |= found.get("roofs", {})
        sizes = [{"roofs": found["roofs"], **entry} for entry in found.get("sizes", [])]
        new = {(entry["model"], entry["batch"]) for entry in sizes}
        whole["sizes"] = [old for old in whole["sizes"] if (old["model"], old["batch"]) not in new] + sizes
        whole["checks"] += found.get("checks", [])
        whole["failed"] += found.get("failed", [])
    if len({machine["gpu"] for machine in whole["machines"]}) > 1:
        sys.exit("the results are of several kinds of GPU: report them apart")
    whole["sizes"].sort(key=lambda entry: (entry["model"], entry["batch"]))
    return whole


def markdown(found: Found) -> str:
    """All tables that there is something for."""
    sizes = found["sizes"]
    spread = "(10th to 90th percentile of the rounds)"
    sections: list[tuple[str, Iterable[str]]] = [
        ("GPU", [machine_line(found["machines"])] if found["machines"] else []),
        ("Roofs", roof_table(found["roofs"])),
        (f"Milliseconds of a batch: median {spread}", latency_table(sizes, time_cell)),
        (f"torch divided by ours: of the medians {spread}", latency_table(sizes, ratio_cell)),
        ("Energy", energy_table(sizes)),
        *((f"Kernels of {short(entry['model'])}, batch {entry['batch']}", kernel_table(entry)) for entry in sizes),
        ("Equal to the reference", check_table(found["checks"])),
        ("compute-sanitizer", sanitizer_table(found["sanitizer"])),
        ("Skipped and failed", reasons(found)),
    ]
    contents = [(title, list(lines)) for title, lines in sections]
    return "\n".join(line for title, lines in contents if lines for line in (f"## {title}", "", *lines, ""))


def machine_line(machines: list[Found]) -> str:
    """The GPU, and the dates of all files."""
    machine = machines[-1]
    smi = "".join(f"{name} {value}; " for name, value in machine["nvidia_smi"].items())
    dates = " and ".join(dict.fromkeys(m["date"] for m in machines))
    return (
        f"{machine['gpu']}, compute capability {machine['capability']}, {machine['processors']} multiprocessors; {smi}"
        f"torch {machine['torch']}, CUDA {machine['cuda']}, Python {machine['python']}, {machine['system']}; {dates}."
    )


def roof_table(roofs: Found) -> Iterator[str]:
    """What the GPU reached, beside the shapes that reached it."""
    known = [(name, unit, roofs[key]) for key, (name, unit) in ROOFS.items() if key in roofs]
    rows = [[name, f"{roof['per_second'] / TERA:.2f} {unit}", roof["of"]] for name, unit, roof in known]
    return table(["what", "rate", "of"], rows) if rows else iter(())


def latency_table(entries: list[Found], cell: Any) -> Iterator[str]:
    """A row per model and batch size, a column per way to run it."""
    sizes = [(short(e["model"]), e["batch"], {row["name"]: row for row in e["rows"]}) for e in entries]
    names = [name for name in (OURS, *PEERS) if any(name in rows for _, _, rows in sizes)]
    rows = [[model, str(batch), *(cell(rows.get(name)) for name in names)] for model, batch, rows in sizes]
    return table(["model", "batch", *names], rows) if rows else iter(())


def time_cell(row: Found | None) -> str:
    if row is None:
        return ""
    digits = 3 if row["median"] < 10 else 2
    return f"{row['median']:.{digits}f} ({row['p10']:.{digits}f} to {row['p90']:.{digits}f})"


def ratio_cell(row: Found | None) -> str:
    if row is None:
        return ""
    ratio = row["ratio"]
    return "1" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def energy_table(sizes: list[Found]) -> Iterator[str]:
    rows = [
        [short(entry["model"]), str(entry["batch"]), name, f"{1000 * e['joules_per_image']:.2f}", f"{e['watts']:.0f}"]
        for entry in sizes
        for name, e in entry["energy"].items()
        if "reason" not in e
    ]
    return table(["model", "batch", "run by", "mJ per image", "W"], rows) if rows else iter(())


def kernels_of(entry: Found) -> list[Kernel]:
    """Kernels by layer, the one that takes most first."""
    return by_kernel(Step(*step) for step in entry["steps"])


def peak_share(entry: Found, peak: float) -> float | None:
    """Of the measured int8 peak, in the large products of a model; two operations are a multiply-add."""
    whole = sum(kernel.multiply_adds for kernel in kernels_of(entry))
    large = [k for k in kernels_of(entry) if k.name == "product" and k.multiply_adds > LARGE * whole]
    seconds = sum(kernel.seconds for kernel in large)
    return 2 * sum(kernel.multiply_adds for kernel in large) / seconds / peak if seconds else None


def kernel_table(entry: Found) -> Iterator[str]:
    """Where the time goes, and each kernel's share of the measured int8 peak."""
    peak = entry["roofs"]["int8"]["per_second"] if "int8" in entry["roofs"] else None
    rows = [
        [
            *(kernel.name, kernel.layer, str(kernel.calls), f"{1e6 * kernel.seconds:.1f}", f"{kernel.share:.1%}"),
            f"{2 * kernel.rate / TERA:.1f}" if kernel.multiply_adds else "",
            f"{2 * kernel.rate / peak:.0%}" if kernel.multiply_adds and peak else "",
        ]
        for kernel in kernels_of(entry)
    ]
    yield from table(["kernel", "layer", "calls", "µs", "of all", "TOPS", "of the int8 peak"], rows)
    share = peak_share(entry, peak) if peak else None
    if share is not None:
        yield from ("", f"Large products: {share:.0%} of the int8 peak.")


def check_table(checks: list[Found]) -> Iterator[str]:
    rows = [[c["file"], str(c["batch"]), str(c["images"]), str(c["logits"]), str(c["different"])] for c in checks]
    return table(["file", "batch", "images", "logits", "that differ"], rows) if rows else iter(())


def sanitizer_table(sanitizer: Found) -> Iterator[str]:
    rows = [
        [pack, tool, "clean" if verdict["clean"] else "not clean", verdict["said"].replace("|", "/")]
        for pack, verdicts in sanitizer.items()
        for tool, verdict in verdicts.items()
    ]
    return table(["pack", "tool", "verdict", "its words"], rows) if rows else iter(())


def reasons(found: Found) -> Iterator[str]:
    for entry in found["sizes"]:
        without = {name: e["reason"] for name, e in entry["energy"].items() if "reason" in e}
        for name, reason in {**entry["skipped"], **{f"energy of {name}": r for name, r in without.items()}}.items():
            yield f"- {short(entry['model'])}, batch {entry['batch']}, {name}: {reason}"
    yield from (f"- {line}" for line in found["failed"])


def draw(found: Found, folder: Path) -> list[Path]:
    """A picture per model: images per second of each way to run it, a panel per batch size."""
    matplotlib = import_package("matplotlib", "plots")
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "intvit", "font.size": 9})
    figures = import_package("matplotlib.figure", "plots")
    written = []
    for model in dict.fromkeys(entry["model"] for entry in found["sizes"]):
        entries = [entry for entry in found["sizes"] if entry["model"] == model]
        most = max(len(entry["rows"]) for entry in entries)
        figure = figures.Figure(figsize=(3.6 * len(entries), 0.26 * most + 1.5), layout="constrained")
        for axis, entry in zip(figure.subplots(1, len(entries), squeeze=False)[0], entries, strict=True):
            panel(axis, entry)
        figure.suptitle(f"{short(model)}, milliseconds of a batch, less is better; {found['machines'][-1]['gpu']}")
        for suffix in ("png", "svg"):
            path = folder / f"gpu-{short(model)}.{suffix}"
            figure.savefig(path, dpi=150, facecolor="white", metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
    return written


def panel(axis: Any, entry: Found) -> None:
    """One batch size: a bar per way to run it, with a whisker from the 10th to the 90th percentile."""
    rows = sorted(entry["rows"], key=lambda row: (OURS, *PEERS).index(row["name"]))
    for place, row in enumerate(rows):
        axis.barh(place, row["median"], color=COLOURS[row["name"].partition("-")[0]], height=0.72)
        axis.plot([row["p10"], row["p90"]], [place, place], color="#222222", linewidth=1)
        axis.text(max(row["median"], row["p90"]), place, f" {number(row['median'])}", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.3 * max(row["p90"] for row in rows))
    axis.set_title(f"batch {entry['batch']}", fontsize=10, loc="left")
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
