"""Which instructions of x86-64, AArch64 and RISC-V compute in floating point, by name and by encoding."""

import pytest

from intvit.verify.machine import aarch64, riscv, x86

X86_FLOAT = """
addps vaddss subpd vmulps divsd sqrtps vrcp14ps rsqrtss minps vmaxpd cmpps vcmpltps cmpsd comiss vucomisd haddps
addsubpd dpps vfmadd213ps vfnmsub132sd roundps vrndscaleps vreduceps vrangepd vscalefps vgetexpps vgetmantps
vfixupimmps vfpclassps cvtsi2sd cvttps2dq vcvtdq2ps vcvtph2ps fld fstp fadd fxch pfadd pi2fd vexp2ps
"""
X86_INTEGER = """
vmulld paddd vpmaddwd vpdpwssd vpdpbusd vpmaxsd vpminsd pabsd vpcompressd vpermps vpermi2pd vpackssdw movaps vmovups
movss movsd movmskps vmovddup xorps vandnps orpd unpcklps shufps vblendps vbroadcastss vinsertps vextractps vgatherdps
vmaskmovps vexpandps add imul idiv push cmp lea vzeroupper kaddb test bts rep-movsd rep-stosd lock-add vtestps
"""
ARM_FLOAT = (
    "fadd fmul fmla fdiv fsqrt fcmp fcmgt fmaxnm fcvtzs fcvt frintn frecpe scvtf ucvtf bfdot bfcvt bfmmla fabs fjcvtzs"
)
ARM_INTEGER = "fmov fcsel bfi bfxil bfc bfm smlal sdot smmla add mul sdiv urecpe usra b.eq bl ldr stp dup csel"


@pytest.mark.parametrize(("names", "expected"), [(X86_FLOAT, True), (X86_INTEGER, False)])
def test_names_of_x86(names: str, expected: bool) -> None:
    assert [name for name in names.split() if x86.is_float(name.replace("-", " ")) is not expected] == []


@pytest.mark.parametrize(("names", "expected"), [(ARM_FLOAT, True), (ARM_INTEGER, False)])
def test_names_of_aarch64(names: str, expected: bool) -> None:
    assert [name for name in names.split() if aarch64.is_float(name) is not expected] == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("62f57d086ec0", "vmovw xmm0, eax"),
        ("62f57d086e08", "vmovw xmm1, [rax]"),
        ("62f57e081008", "vmovsh xmm1, [rax]"),
        ("c4e26d52d9", "{vex} vpdpwssd ymm3, ymm2, ymm1"),
        ("c4e26d501c88", "{vex} vpdpbusd ymm3, ymm2, [rax + 4 * rcx]"),
        ("c4e26d509c8800010000", "{vex} vpdpbusd ymm3, ymm2, [rax + 4 * rcx + 256]"),
        ("c4e26d501d00010000", "{vex} vpdpbusd ymm3, ymm2, [rip + 256]"),
        ("c4e26d505c2440", "{vex} vpdpbusd ymm3, ymm2, [rsp + 64]"),
        ("c4e27b49c0", "tilezero tmm0"),
        ("c4e27b4b0c16", "tileloadd tmm1, [rsi + rdx]"),
        ("c4e27a4b0417", "tilestored [rdi + rdx], tmm0"),
        ("c4e2735eda", "tdpbssd tmm3, tmm2, tmm1"),
        ("c4e2784906", "ldtilecfg [rsi]"),
    ],
)
def test_instructions_that_are_newer_than_capstone(code: str, name: str) -> None:
    surrounded = bytes.fromhex("4889c8" + code + "4889d1" * 4)  # mov rax, rcx before and mov rcx, rdx behind
    assert x86.faults_in(surrounded, 0x1000) == (6, []), name


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("62f56c4858d9", "vaddph zmm3, zmm2, zmm1"),
        ("c4e2725cda", "tdpbf16ps tmm3, tmm2, tmm1"),
        ("62f26e4852d9", "vdpbf16ps zmm3, zmm2, zmm1"),
        ("62f27e4872d1", "vcvtneps2bf16 ymm2, zmm1"),
    ],
)
def test_what_is_unknown_is_refused(code: str, name: str) -> None:
    count, faults = x86.faults_in(bytes.fromhex("4889c8" + code + "4889d1" * 4), 0x1000)
    assert count == 1, name
    assert [(fault.address, fault.readable) for fault in faults] == [(0x1003, False)]


def test_x86_faults_have_their_place() -> None:
    count, (fault,) = x86.faults_in(bytes.fromhex("4889c80f58c1c3"), 0x40)
    assert (count, fault.address, fault.instruction, fault.readable) == (3, 0x43, "addps xmm0, xmm1", True)


def test_aarch64_faults_have_their_place() -> None:
    code = bytes.fromhex("20cc224e2094824effffffffc0035fd6")  # fmla, sdot, no instruction, ret
    count, faults = aarch64.faults_in(code, 0x40)
    assert count == 3
    assert [(fault.address, fault.readable) for fault in faults] == [(0x40, True), (0x48, False)]


@pytest.mark.parametrize(
    ("word", "name", "expected"),
    [
        (0x00B57553, "fadd.s fa0, fa0, fa1", True),
        (0x02B57553, "fadd.d fa0, fa0, fa1", True),
        (0x68B57543, "fmadd.s", True),
        (0xD0057553, "fcvt.s.w fa0, a0", True),
        (0xC0051553, "fcvt.w.s a0, fa0, rtz", True),
        (0xA0B52553, "feq.s a0, fa0, fa1", True),
        (0xE0051553, "fclass.s a0, fa0", True),
        (0xE0050553, "fmv.x.w a0, fa0", False),
        (0xF0050553, "fmv.w.x fa0, a0", False),
        (0xF2050553, "fmv.d.x fa0, a0", False),
        (0x20A50553, "fmv.s fa0, fa0", False),
        (0x20B51553, "fsgnjn.s fa0, fa0, fa1", True),
        (0x028484D7, "vadd.vv v9, v8, v9", False),
        (0x968424D7, "vmul.vv v9, v8, v8", False),
        (0x028494D7, "vfadd.vv v9, v8, v9", True),
        (0x928554D7, "vfmul.vf v9, v8, fa0", True),
        (0x428014D7, "vfmv.f.s fs1, v8", False),
        (0x420554D7, "vfmv.s.f v9, fa0", False),
        (0x5E0554D7, "vfmv.v.f v9, fa0", False),
        (0xCD027057, "vsetivli zero, 4, e32, m1", False),
        (0x00B50533, "add a0, a0, a1", False),
        (0x00052507, "flw fa0, 0(a0)", False),
        (0x0000000B, "custom-0", None),
    ],
)
def test_encodings_of_riscv(word: int, name: str, expected: bool | None) -> None:
    assert riscv.is_float(word) is expected, name
    count, faults = riscv.faults_in(b"\x01\x00" + word.to_bytes(4, "little"), 0)  # behind a compressed `nop`
    assert count == 2
    assert [(fault.address, fault.readable) for fault in faults] == (
        [] if expected is False else [(2, expected is True)]
    )
