"""Names of targets: what `auto` finds, what a fat target holds, and what is refused."""

import platform

import pytest

pytest.importorskip("tvm")
from intvit.errors import IntvitError
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, DOTPROD, NARROW, SSE2, WIDE, Isa
from intvit.kernels.pack import packed_shape
from intvit.targets import TARGETS, require_here, resolve, variants_of

ISAS = {
    "x86-64-v4-amx": AMX,
    "x86-64-v4-vnni": AVX512_VNNI,
    "x86-64-v4": AVX512,
    "x86-64-v3": AVX2,
    "x86-64-v1": SSE2,
    "aarch64-dotprod": DOTPROD,
    "aarch64": WIDE,
    "riscv64": WIDE,
    "generic": NARROW,
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_its_kernels(name: str) -> None:
    assert [variant.isa for variant in variants_of(resolve(name))] == [
        ISAS[variant.name] for variant in variants_of(TARGETS[name])
    ]


def test_variants_share_the_layout_of_weights() -> None:
    for n, k in ((192, 768), (1000, 588), (33, 7)):
        for bits in (8, 4):
            assert len({packed_shape(n, k, isa, bits) for isa in _isas("x86-64")}) == 1


def test_variants_are_ordered_from_the_best() -> None:
    names = list(TARGETS["x86-64"].variants)
    assert names == [name for name in TARGETS if name in names]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("avx2 avx512bw avx512_vnni", "x86-64-v4-vnni"),
        ("avx2 avx512bw amx_tile", "x86-64-v4"),
        ("avx2", "x86-64-v3"),
        ("sse2", "x86-64-v1"),
    ],
)
def test_auto_goes_by_what_linux_enables(monkeypatch: pytest.MonkeyPatch, flags: str, found: str) -> None:
    """Not by the CPU's name: a hypervisor may keep the name and mask instructions."""
    if platform.machine() != "x86_64":
        pytest.skip("flags of x86-64")
    monkeypatch.setattr("intvit.targets._flags", lambda: ["sse2", *flags.split()])
    assert resolve("auto").name == found


@pytest.mark.parametrize(
    ("flags", "lacking"),
    [
        ("avx2 avx512bw avx512_vnni amx_tile", ["x86-64-v4-amx"]),
        ("avx2 avx512bw", ["x86-64-v4-amx", "x86-64-v4-vnni"]),
        ("", ["x86-64-v4-amx", "x86-64-v4-vnni", "x86-64-v4", "x86-64-v3"]),
    ],
)
def test_what_linux_does_not_enable_is_refused(monkeypatch: pytest.MonkeyPatch, flags: str, lacking: list[str]) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("flags of x86-64")
    monkeypatch.setattr("intvit.targets._flags", lambda: ["sse2", *flags.split()])
    for name, cpu in TARGETS.items():
        if name in lacking:
            with pytest.raises(IntvitError, match=f"^target {name} needs instructions that this CPU lacks"):
                require_here(cpu)
        elif cpu.triple.startswith("x86_64"):
            require_here(cpu)
        else:
            with pytest.raises(IntvitError, match=f"^target {name} is for .*, which this machine is not: choose auto"):
                require_here(cpu)


@pytest.mark.parametrize(("name", "hint"), [("x86-64-v4-vni", "x86-64-v4-vnni"), ("AMX", ""), ("", "")])
def test_unknown_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(IntvitError, match=f"unknown target {name!r}: choose auto, x86-64, .*{hint}"):
        resolve(name)


def _isas(name: str) -> list[Isa]:
    return [variant.isa for variant in variants_of(TARGETS[name])]
