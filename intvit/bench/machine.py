"""What figures were taken on: the CPU and its instruction sets, cores, memory, and the versions of all that ran."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from intvit._version import __version__
from intvit.cores import cores as numbers_of_cores

FLAGS = (
    *("sse4_1", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve"),
)
"""Flags of `/proc/cpuinfo` that decide how fast a peer or a target of ours can be."""
PACKAGES = ("apache-tvm", "torch", "timm", "onnx", "onnxruntime", "openvino", "nncf", "numpy")
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
"""Variables of the environment that change what peers do."""


def describe(cpuinfo: Path = Path("/proc/cpuinfo"), meminfo: Path = Path("/proc/meminfo")) -> dict[str, Any]:
    """Plain JSON values: `cpu`, `flags`, `cores`, `memory_gib`, `system`, `python`, `versions` and `environment`.

    What this system does not tell is None or empty.
    """
    facts = _facts(cpuinfo)
    present = set((facts.get("flags") or facts.get("Features") or "").split())
    memory = _facts(meminfo).get("MemTotal", "").partition(" ")[0]
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "family": "/".join(facts[key] for key in ("cpu family", "model", "stepping") if key in facts),
        "flags": [flag for flag in FLAGS if flag in present],
        "virtual": "hypervisor" in present,
        "cores": cores(),
        "memory_gib": round(int(memory) / 2**20, 1) if memory.isdigit() else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"intvit": __version__, **{name: found for name in PACKAGES if (found := _version(name))}},
        "environment": {name: os.environ[name] for name in LIMITS if name in os.environ},
    }


def cores() -> int:
    """How many cores this process may run on."""
    return len(numbers_of_cores())


def _facts(path: Path) -> dict[str, str]:
    """The first value of every `name : value` line."""
    facts: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
