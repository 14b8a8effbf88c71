"""Names of targets: what `auto` finds, what a fat target holds, and what is refused."""

import pytest

pytest.importorskip("tvm")
from intvit.errors import IntvitError
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, DOTPROD, NARROW, SSE2, WIDE, Isa
from intvit.targets import TARGETS, resolve, runs_here, variants_of

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
    layouts = {(isa.columns, isa.neighbours) for isa in _isas("x86-64")}
    assert len(layouts) == 1


def test_variants_are_ordered_from_the_best() -> None:
    names = list(TARGETS["x86-64"].variants)
    assert names == [name for name in TARGETS if name in names]


def test_auto_runs_here() -> None:
    assert runs_here(resolve("auto").name)


@pytest.mark.parametrize(("name", "hint"), [("x86-64-v4-vni", "x86-64-v4-vnni"), ("AMX", ""), ("", "")])
def test_unknown_names_are_refused(name: str, hint: str) -> None:
    with pytest.raises(IntvitError, match=f"unknown target {name!r}: choose auto, x86-64, .*{hint}"):
        resolve(name)


def _isas(name: str) -> list[Isa]:
    return [variant.isa for variant in variants_of(TARGETS[name])]
