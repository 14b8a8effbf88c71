"""Instruction sets by which a measurement can be limited: the peers by their libraries' variables, ours by its target.

oneDNN's variable reaches torch's products and OpenVINO (whose own code asks oneDNN what it may use), ATen's the rest of
torch and what `torch.compile` generates. ONNX Runtime knows no such limit, so it is left out of limited measurements,
and so is bfloat16, which none of these levels has: it would be emulated.
A library reads its variable when it is loaded: a limit needs a new process.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limit:
    """The environment of the peers' process, and our target."""

    target: str
    environment: dict[str, str] = field(default_factory=dict)


def _limit(target: str, onednn: str, aten: str, mkl: str) -> Limit:
    names = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
    return Limit(target, dict(zip(names, (onednn, aten, mkl), strict=True)))


LIMITS = {
    "native": Limit("auto"),
    "avx2": _limit("x86-64-v3", "AVX2", "avx2", "AVX2"),
    "avx512_core": _limit("x86-64-v4", "AVX512_CORE", "avx512", "AVX512"),
    "avx512_core_vnni": _limit("x86-64-v4-vnni", "AVX512_CORE_VNNI", "avx512", "AVX512"),
}


def left_out(isa: str, peer: str) -> str | None:
    """Why a peer is not measured under a limit; None where it is."""
    if isa == "native":
        return None
    if peer.startswith("onnx"):
        return "obeys no limit of instructions"
    return "has no instructions for bfloat16" if peer.endswith("bf16") else None
