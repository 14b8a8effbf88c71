"""Latency of packs on an NVIDIA GPU, ours against torch in one run: one file that needs the packs, numpy and torch.

    python gpu.py packs/deit_small --batches 8 --out small.json
    python gpu.py packs/deit_tiny --batches --check deit_tiny-images-0.npz --out checks.json
    python gpu.py packs/*/ --quick --out quick.json

A pack is a folder that `intvit pack` wrote (`gpu_packs.py` makes those of this benchmark), for a model whose sizes are
in `SIZES`: torch runs one of the same sizes with random weights. The JSON is written whenever a batch size is done, and
`gpu_report.py` makes tables and pictures of it on any machine. What fails is written down and leaves the rest as it is.
"""

import argparse
import ctypes
import gc
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Call = Callable[[], object]
Timer = Callable[[Call, int], float]
"""Seconds of one call, from so many in a row."""

OURS = "intvit"
SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Channels, blocks and heads of DeiT-T, -S, -B and ViT-L, by the word in timm's names."""
PIXELS, PATCH, CLASSES, DEVICE = 224, 16, 1000, "cuda"
say = partial(print, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Peer:
    """A way to run torch: `how` is eager, graph (eager, captured into a CUDA graph) or compile."""

    dtype: torch.dtype
    how: str
    tf32: bool = False


FULL, HALF = ("eager", "graph"), ("eager", "graph", "compile")
PEERS = {
    **{f"{name}-{how}": Peer(torch.float32, how, name == "tf32") for name in ("f32", "tf32") for how in FULL},
    **{f"f16-{how}": Peer(torch.float16, how) for how in HALF},
    **{f"bf16-{how}": Peer(torch.bfloat16, how) for how in HALF},
}


@dataclass(frozen=True)
class Turns:
    """A turn is as many calls in a row as last `seconds`; after `limit` seconds, and three rounds, none begins."""

    rounds: int = 15
    seconds: float = 0.02
    limit: float = 30.0


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return torch.add(x, self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class ViT(nn.Module):
    """A plain Vision Transformer of 197 tokens with random weights, as timm computes one."""

    def __init__(self, channels: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, channels, PATCH, PATCH)
        self.token = nn.Parameter(torch.zeros(1, 1, channels))
        self.position = nn.Parameter(torch.randn(1, (PIXELS // PATCH) ** 2 + 1, channels) * 0.02)
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packs", nargs="+", type=Path, help="folders that `intvit pack` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--seconds", type=float, default=Turns.limit, help="of the rounds of a batch size, after 3")
    parser.add_argument("--deadline", type=float, default=1e9, help="seconds after which nothing new is compiled")
    parser.add_argument("--check", nargs="*", type=Path, default=[], metavar="FILE.npz", help="images and their logits")
    parser.add_argument("--check-batches", type=int, nargs="+", default=[1, 8, 50])
    parser.add_argument("--quick", action="store_true", help="few short rounds, no torch.compile, no energy")
    options = parser.parse_args()
    for pack in options.packs:
        if not (pack / "pack.json").is_file():
            parser.error(f"{pack}: not a folder that `intvit pack` wrote")
        if not json.loads((pack / "pack.json").read_text())["target"].startswith("cuda"):
            parser.error(f"{pack}: a pack for CPUs; compile with --target cuda:sm_90")
    if min([1, *options.batches, *options.check_batches]) < 1:
        parser.error("batches must be at least 1")
    if not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU on this machine")
    sys.path.insert(0, str(options.packs[0].resolve()))
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Everything that the options ask for, written as it comes."""
    intvit: Any = import_module("intvit")
    deadline = time.perf_counter() + options.deadline
    torch.set_grad_enabled(False)
    found: dict[str, Any] = {"machine": machine(), "roofs": {}, "checks": [], "sizes": [], "failed": []}

    def attempt(what: str, work: Call) -> None:
        """One piece of it, whose failure is written down and leaves the rest as it is."""
        say(what)
        try:
            work()
        except Exception as error:  # whatever it is, it is the reason
            found["failed"].append(f"{what}: {reason_of(error)}")
            print(f"FAILED {found['failed'][-1]}", flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")

    def pack_figures(path: Path) -> None:
        model = intvit.load(path / "model.so")
        check = partial(checked, model, options.check, options.check_batches)
        try:
            attempt(f"{path}: checks", lambda: found["checks"].extend(check()))
            for batch in options.batches:
                sized = partial(size_figures, model, batch, options, deadline)
                attempt(f"{path}: batch {batch}", lambda sized=sized: found["sizes"].append(sized()))  # type: ignore[misc]
        finally:
            model.close()

    if options.batches:
        attempt("roofs", lambda: found["roofs"].update(roofs(gpu_timer)))
    for path in options.packs:
        attempt(f"{path}: loading", partial(pack_figures, path))
    unused = [file.name for file in options.check if file.name not in {check["file"] for check in found["checks"]}]
    if unused or found["failed"] or any(check["different"] for check in found["checks"]):
        sys.exit(f"failed: {len(found['failed'])}; not of these packs: {', '.join(unused) or 'none'}")


def size_figures(model: Any, batch: int, options: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """Times, ratios, kernels and energy of one model at one batch size."""
    name = model.metadata.name
    pixels = torch.randint(0, 256, (batch, PIXELS, PIXELS, 3), dtype=torch.uint8, device=DEVICE)
    calls: dict[str, Call] = {OURS: lambda: model(pixels, raw=True)}
    skipped: dict[str, str] = {}
    for peer in options.peers:
        began = time.perf_counter()
        try:
            if PEERS[peer].how == "compile" and (options.quick or began > deadline):
                raise TimeoutError("no time for torch.compile in this run")
            allow_tf32(PEERS[peer].tf32)
            call = call_of(PEERS[peer], sizes_of(name), batch)
            gpu_timer(call, 1)
            calls[peer] = call
        except Exception as error:  # whatever a peer's library raises is its reason
            skipped[peer] = reason_of(error)
        say(f"  {peer}: {skipped.get(peer, f'ready after {time.perf_counter() - began:.1f} s')}")
    turns = Turns(5, 0.005, 5.0) if options.quick else Turns(limit=options.seconds)
    times = take_turns(calls, gpu_timer, turns)
    rows = rows_of(times, batch)
    half = best_half(rows)
    energy = {} if options.quick else {p: energy_of(calls[p], p, batch) for p in (OURS, *([half] if half else []))}
    steps = [[s.name, s.path, s.multiply_adds, s.seconds] for s in model.profile(np.zeros(pixels.shape, np.uint8))]
    calls.clear()
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    found = {"model": name, "target": model.target, "digest": model.digest, "batch": batch, "best_half": half}
    found |= {"rows": rows, "times": times, "skipped": skipped, "energy": energy, "steps": steps}
    print(summary_line(found), flush=True)
    return found


def sizes_of(name: str) -> tuple[int, int, int]:
    """Channels, blocks and heads of a model."""
    for word, sizes in SIZES.items():
        if f"_{word}_patch16_224" in name:
            return sizes
    raise LookupError(f"no torch model of the sizes of {name}")


def call_of(peer: Peer, sizes: tuple[int, int, int], batch: int) -> Call:
    """A call of torch's model on normalized images that lie on the GPU."""
    torch.manual_seed(0)
    module = ViT(*sizes).eval().to(DEVICE, peer.dtype)
    images = torch.randn(batch, 3, PIXELS, PIXELS, device=DEVICE).to(peer.dtype)
    if peer.how == "compile":
        compiled = torch.compile(module, mode="max-autotune", fullgraph=True, dynamic=False)
        for _ in range(3):
            compiled(images)
        return lambda: compiled(images)
    return captured(module, images) if peer.how == "graph" else lambda: module(images)


def captured(module: nn.Module, images: Tensor) -> Call:
    """A CUDA graph of a call, with the tensors that it reads and writes."""
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = module(images)
    kept = module, images, output
    return lambda: graph.replay() or kept  # type: ignore[func-returns-value]


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products may be of TF32; torch's own default allows it in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def gpu_timer(call: Call, count: int) -> float:
    """By the GPU's clock: from when the first call begins there to the end of the last."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / count


def take_turns(calls: Mapping[str, Call], timer: Timer, turns: Turns) -> dict[str, list[float]]:
    """Seconds of a call of each, one number for a round, which meet drifts of clocks and heat alike."""
    counts = {}
    for name, call in calls.items():
        allow_tf32(name in PEERS and PEERS[name].tf32)
        timer(call, 3)
        counts[name] = int(np.clip(np.ceil(turns.seconds / max(timer(call, 3), 1e-9)), 1, 100_000))
    found: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for done in range(turns.rounds):
        if done >= 3 and time.perf_counter() - start > turns.limit:
            break
        for name, call in calls.items():
            allow_tf32(name in PEERS and PEERS[name].tf32)
            call()
            found[name].append(timer(call, counts[name]))
    return found


def rows_of(times: Mapping[str, list[float]], batch: int) -> list[dict[str, Any]]:
    """Milliseconds (median, 10th and 90th percentile of the rounds) and how many times ours goes into each.

    A ratio is that of the medians; `low` and `high` are the percentiles of the ratios of single rounds.
    """
    rows = []
    for name, taken in times.items():
        low, middle, high = map(float, np.percentile(taken, [10, 50, 90]))
        least, most = map(float, np.percentile(np.divide(taken, times[OURS]), [10, 90]))
        spread = {"value": middle / float(np.median(times[OURS])), "low": least, "high": most}
        row = {"name": name, "median": 1e3 * middle, "p10": 1e3 * low, "p90": 1e3 * high, "rounds": len(taken)}
        rows.append({**row, "images_per_second": batch / middle, "ratio": None if name == OURS else spread})
    return rows


def best_half(rows: list[dict[str, Any]]) -> str | None:
    """The fastest of fp16 and bf16."""
    half = [row for row in rows if row["name"].startswith(("f16", "bf16"))]
    return min(half, key=lambda row: float(row["median"]))["name"] if half else None


def roofs(timer: Timer) -> dict[str, Any]:
    """What the GPU reaches: operations per second in products of random values by cuBLASLt, bytes in a copy."""

    def best(made: Iterator[tuple[str, float, Call]]) -> dict[str, Any]:
        rates = []
        for what, work, call in made:
            (taken,) = take_turns({what: call}, timer, Turns(rounds=7, limit=10.0)).values()
            rates.append((work / float(np.median(taken)), what))
        return dict(zip(("per_second", "of"), max(rates), strict=True))

    def products(dtype: torch.dtype) -> Iterator[tuple[str, float, Call]]:
        for m, n, k in ((8192, 8192, 8192), (16384, 8192, 4096), (16384, 4096, 4096), (50432, 3072, 768)):
            if dtype == torch.int8:
                a, b = (torch.randint(-128, 128, s, dtype=dtype, device=DEVICE) for s in ((m, k), (n, k)))
            else:
                a, b = (torch.randn(s, device=DEVICE).to(dtype) for s in ((m, k), (n, k)))
            multiply = torch._int_mm if dtype == torch.int8 else torch.mm
            yield f"{m} x {n} x {k}", 2.0 * m * n * k, partial(multiply, a, b.t())

    def copies() -> Iterator[tuple[str, float, Call]]:
        source = torch.randint(0, 256, (2 << 30,), dtype=torch.uint8, device=DEVICE)
        target = torch.empty_like(source)
        yield "2 GiB read and written", 2.0 * source.nbytes, lambda: target.copy_(source)

    found = {"int8": best(products(torch.int8)), "f16": best(products(torch.float16)), "bytes": best(copies())}
    torch.cuda.empty_cache()
    return found


def checked(model: Any, files: list[Path], batches: list[int]) -> Iterator[dict[str, Any]]:
    """How many logits differ from the reference's, for each file that is of this model; raw images lie on the GPU."""
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["digest"]) != model.digest:
                continue
            pixels, logits = np.cumsum(stored["differences"], axis=2, dtype=np.uint8), stored["logits"]
        for batch in batches:
            parts = (torch.from_numpy(pixels[i : i + batch]).to(DEVICE) for i in range(0, len(pixels), batch))
            outputs = [model(part, raw=True).cpu().numpy() for part in parts]
            different = int((np.concatenate(outputs) != logits).sum())
            print(f"{file.name}, batch {batch}: {different} of {logits.size} logits differ", flush=True)
            sizes = {"batch": batch, "images": len(pixels), "logits": logits.size}
            yield {"file": file.name, **sizes, "different": different}


def energy_of(call: Call, name: str, batch: int, seconds: float = 3.0) -> dict[str, Any]:
    """Joules per image and mean watts of the GPU over calls in a row, by NVML's counter; or why there are none."""
    allow_tf32(name in PEERS and PEERS[name].tf32)
    try:
        counter = nvml_counter()
    except (OSError, AttributeError) as error:
        return {"reason": reason_of(error)}
    count = max(1, int(0.05 / max(gpu_timer(call, 3), 1e-9)))
    gpu_timer(call, 10 * count)
    start, before, calls = time.perf_counter(), counter(), 0
    while time.perf_counter() - start < seconds:
        gpu_timer(call, count)
        calls += count
    joules, taken = (counter() - before) / 1000, time.perf_counter() - start
    return {"joules_per_image": joules / (calls * batch), "watts": joules / taken, "images": calls * batch}


def nvml_counter() -> Callable[[], int]:
    """Millijoules that the GPU has taken since its driver was loaded; raises `OSError` with the reason."""
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    handle, value = ctypes.c_void_p(), ctypes.c_ulonglong()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        raise OSError(f"NVML does not find {uuid}")

    def read() -> int:
        if status := nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)):
            raise OSError(f"NVML has no counter of energy here (status {status})")
        return value.value

    read()
    return read


def machine() -> dict[str, Any]:
    """The GPU and the versions of all that ran; nvidia-smi's part is empty where it fails."""
    gpu = torch.cuda.get_device_properties(0)
    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "memory.total")
    try:
        query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        answer = ""
    found = {"gpu": gpu.name, "capability": f"{gpu.major}.{gpu.minor}", "processors": gpu.multi_processor_count}
    ran = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    smi = dict(zip(fields, answer.strip().split(", "), strict=False)) if answer else {}
    return {**found, **ran, "system": platform.platform(), "date": time.strftime("%Y-%m-%d"), "nvidia_smi": smi}


def summary_line(entry: dict[str, Any]) -> str:
    """One size in one line: ours, the best of half precision, float32 eager."""
    rows = {row["name"]: row for row in entry["rows"]}
    peers = [rows[name] for name in dict.fromkeys((entry["best_half"], "f32-eager")) if name in rows]
    ratios = [f", {row['name']} {row['ratio']['value']:.2f} times" for row in peers]
    return f"{entry['model']} batch {entry['batch']}: {rows[OURS]['median']:.3f} ms{''.join(ratios)}"


def reason_of(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


if __name__ == "__main__":
    main()
