"""The proof that CUDA kernels compute nothing in floating point: planted faults, in text and in compiled code."""

from functools import cache

import pytest

from intvit.cuda.image import Image
from intvit.cuda.toolkit import compile_image, find_compiler
from intvit.errors import IntvitError, VerifyError
from intvit.kernels.cuda.arch import ARCHS
from intvit.verify.machine import disassembler, ptx, sass
from intvit.verify.machine.disassembler import disassemble, find_disassemblers
from intvit.verify.no_float_cuda import prove_no_float_ptx, prove_no_float_sass

ARCHITECTURES = (*ARCHS, "sm_90a")
CLEAN = """
extern "C" __global__ void integers(const int* __restrict__ x, int* __restrict__ y, int n) {
  __shared__ int values[128];
  const int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i];
  const long product = (long)v * x[i + n] + (1l << 30);
  values[threadIdx.x] = min(max((int)(product >> 31), -128), 127);
  __syncthreads();
  int sum = values[(threadIdx.x * 7 + n) & 127] / 197 + v % 768 + (v >> n) + __clz(v) + (v > 3 ? 0x3c003c00 : 0);
  for (int offset = 16; offset; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
  y[i] = sum; y[i + 1] = 4; y[i + n] = 0x40000000; y[i + 2 * n] = 0x7c007c00; y[i + 3 * n] = 0x80008000;
}
extern "C" __global__ void product(const int* __restrict__ x, int* __restrict__ y, int n) {
  int c = 0, d = 0;
  for (int j = 0; j < n; ++j)
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c), "+r"(d) : "r"(x[j + threadIdx.x]), "r"(x[j + n + threadIdx.x]));
  y[2 * threadIdx.x] = c; y[2 * threadIdx.x + 1] = d;
}
extern "C" __global__ void dots(const int* __restrict__ x, int* __restrict__ y, int n) {
  int sum = n;
  for (int j = 0; j < 16; ++j) sum = __dp4a(x[threadIdx.x + j], x[j], sum);
  y[threadIdx.x] = sum;
}
"""
FAULTY = {
    "float_product": "y[0] = __float_as_int(__int_as_float(x[0]) * 1.5f + 3.0f);",
    "conversion": "y[0] = (int)(float)x[0];",
    "division": "y[0] = x[0] / n;",
    "remainder_of_64_bits": "y[0] = (long)x[0] * x[1] % ((long)n * x[2]);",
    "half": 'asm("{.reg .b32 t; add.f16x2 %0, %1, %2;}" : "=r"(y[0]) : "r"(x[0]), "r"(x[1]));',
    "doubles": "*(double*)y = *(const double*)x + 1.0;",
}
"""Bodies of kernels, each with floating-point arithmetic in its machine code."""
FLOAT_OPCODES = """
FADD FMUL FFMA FSETP FMNMX FSEL FSWZADD FCHK HADD2 HMUL2 HFMA2 HMNMX2 HSETP2 HMMA.16816.F32 HGMMA QGMMA DADD DMUL DFMA
DMMA DSETP MUFU.RCP I2F.RP I2FP.F32.S32 F2I.TRUNC F2F FRND F2FP F2IP UF2FP UFADD UI2F VHMNMX
"""
MODULE = """.version 9.5
.target sm_90, map_f64_to_f32_is_text
.address_size 64
.global .align 4 .b8 table[4] = {1, 0, 15, 0};
.func (.param .b32 func_retval0) helper(.param .b32 helper_param_0)
{
 ret;
}
.visible .entry kern(
 .param .u64 kern_param_0 // .f32 in a comment
)
.maxntid 128, 1, 1
{
 .reg .b32 %r<8>;
 mov.b32 {%r1, %r2}, %rd1;
$L__BB0_1:
 @!%p1 bra $L__BB0_1;
 INSTRUCTION;
 ret;
}
"""
SASS = """
	.section	.text.kern,"ax",@progbits
        .other          kern,@"STO_CUDA_ENTRY STV_DEFAULT"
.text.kern:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 INSTRUCTION ;
.L_x_1:
        /*0020*/                   BRA `(.L_x_1);
"""


def kernel(name: str, body: str) -> str:
    """A kernel with pointers `x` and `y` and a number `n`."""
    return f'extern "C" __global__ void {name}(const int* __restrict__ x, int* __restrict__ y, int n) {{ {body} }}\n'


@cache
def compiled(source: str, architecture: str) -> Image:
    """An image, or a skip where there is no compiler."""
    try:
        find_compiler()
    except IntvitError as error:
        pytest.skip(str(error))
    return compile_image(source, architecture)


def disassembled(image: Image) -> str:
    """Its machine code as text, or a skip where there is no disassembler."""
    if not find_disassemblers():
        pytest.skip("nvdisasm is not found: pip install nvidia-cuda-nvdisasm")
    return disassemble(image.cubin)


def places(error: VerifyError) -> set[str]:
    """The kernels that an error names."""
    return {line.strip().partition(":")[0] for line in str(error).splitlines()[1:]}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_integer_kernels_pass(architecture: str) -> None:
    image = compiled(CLEAN, architecture)
    assert prove_no_float_ptx(image.ptx, ["product", "dots"]) > 100
    assert prove_no_float_sass(disassembled(image), ["product", "dots"]) > 100


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_planted_floats_are_found(architecture: str) -> None:
    image = compiled(CLEAN + "".join(kernel(name, body) for name, body in FAULTY.items()), architecture)
    with pytest.raises(VerifyError) as raised:
        prove_no_float_ptx(image.ptx, ["product"])
    assert places(raised.value) == set(FAULTY)
    with pytest.raises(VerifyError) as raised:
        prove_no_float_sass(disassembled(image), ["product"])
    assert places(raised.value) == set(FAULTY)
    assert str(raised.value).count("computes in floating point") == len(FAULTY)


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_spills_are_found_in_machine_code(architecture: str) -> None:
    body = "const volatile int* from = x; volatile int* to = y; int values[128];" + "".join(
        f'_Pragma("unroll") for (int j = 0; j < 128; ++j) {copy};'
        for copy in ("values[j] = from[j]", "to[j] = values[j]")
    )
    source = kernel("spilling", body).replace("void spilling", "void __launch_bounds__(1024, 1) spilling")
    image = compiled(source, architecture)
    assert image.kernels["spilling"].spills > 0
    prove_no_float_ptx(image.ptx, [])
    with pytest.raises(VerifyError, match=r"spilling: (LDL|STL).* uses local memory"):
        prove_no_float_sass(disassembled(image), [])


def test_a_matrix_kernel_needs_matrix_instructions() -> None:
    image = compiled(CLEAN, "sm_90")
    for prove, text in ((prove_no_float_ptx, image.ptx), (prove_no_float_sass, disassembled(image))):
        with pytest.raises(VerifyError, match="integers: has no integer matrix instruction"):
            prove(text, ["integers", "product"])
        with pytest.raises(VerifyError, match="other: there is no such kernel"):
            prove(text, ["other"])


@pytest.mark.parametrize("prove", [prove_no_float_ptx, prove_no_float_sass])
def test_text_without_a_kernel_proves_nothing(prove: object) -> None:
    assert callable(prove)
    with pytest.raises(VerifyError, match="holds no kernel: nothing is proved"):
        prove("", [])


@pytest.mark.parametrize(
    "instruction",
    [
        "add.s32 %r1, %r2, %r3",
        "@%p2 mov.b32 %r1, 0f3F800000_is_a_name",
        "div.s32 %r1, %r2, -197",
        "rem.u64 %rd1, %rd2, 0x10",
        "call.uni (retval0), helper, (param0)",
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%r5]",
        "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.s8.s32 {%r1}, {%r2}, {%r3}, {%r4}",
        "cvt.pack.sat.s8.s32.b32 %r1, %r2, %r3, %r4",
        "{ .reg .pred p; and.b16 %rs1, %rs2, 0x0f00; }",
    ],
)
def test_integer_ptx(instruction: str) -> None:
    assert prove_no_float_ptx(MODULE.replace("INSTRUCTION", instruction), []) >= 5


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("@%p1 add.rn.f32 %f1, %f2, %f3", "float type f32"),
        ("fma.rn.f16x2 %r1, %r2, %r3, %r4", "float type f16x2"),
        ("{ .reg .bf16 t; }", "float type bf16"),
        ("cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2", "float type e4m3x2"),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1}, {%r1}, {%r2}, {%f2}", "float type f32"),
        (".reg .f64 %fd<3>", "float type f64"),
        ("$L__BB0_9: ld.global.f32 %f1, [%rd1]", "float type f32"),
        ("mov.b32 %r1, 0f3F800000", "float constant"),
        ("div.s32 %r1, %r2, %r3", "divides by a variable"),
        ("@%p1 rem.u64 %rd1, %rd2, %rd3", "divides by a variable"),
        ("call.uni (retval0), __nv_sqrtf, (param0)", "calls a function that is not in the module"),
        ("call (retval0), %rd1, (param0), prototype_0", "calls a function that is not in the module"),
    ],
)
def test_floats_in_ptx(instruction: str, reason: str) -> None:
    with pytest.raises(VerifyError, match=rf"kern: .*{reason}"):
        prove_no_float_ptx(MODULE.replace("INSTRUCTION", instruction), [])


def test_floats_outside_of_kernels() -> None:
    clean = MODULE.replace("INSTRUCTION", "ret")
    for old, new in ((".b8 table[4]", ".f32 table[4]"), (".param .u64 kern_param_0", ".param .f32 kern_param_0")):
        assert old in clean
        with pytest.raises(VerifyError, match=r"\(the module\): .*has the float type f32"):
            prove_no_float_ptx(clean.replace(old, new), [])


def test_functions_of_ptx_are_read() -> None:
    routines, declarations = ptx.read(MODULE.replace("INSTRUCTION", "{ ret; } bar.sync 0"))
    assert [(routine.name, routine.is_kernel) for routine in routines] == [("helper", False), ("kern", True)]
    assert routines[1].instructions[1:] == (
        "mov.b32 {%r1, %r2}, %rd1",
        "bra $L__BB0_1",
        "ret",
        "bar.sync 0",
        "ret",
    )
    assert declarations[0].startswith(".global .align 4 .b8 table[4]")


@pytest.mark.parametrize(
    "instruction",
    [
        "HFMA2.MMA R5, -RZ, RZ, 0, 2.384185791015625e-07",
        "HFMA2 R3, -RZ, RZ, +INF , +INF ",
        "HFMA2 R27, -RZ, RZ, +QNAN , 5.9604644775390625e-08",
        "HFMA2.MMA R6, -RZ, RZ, -0.0 , -0.0 ",
        "FLO.U32 R0, R2",
        "IMMA.16832.S8.S8 R4, R8.ROW, R12.COL, R4",
        'BRA `(.L_x_1) (*"BRANCH_TARGETS .L_x_1"*)',
        "LDSM.16.M88.4 R4, [R0]",
    ],
)
def test_integer_machine_code(instruction: str) -> None:
    assert prove_no_float_sass(SASS.replace("INSTRUCTION", instruction), []) == 3


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        *((f"{opcode} R0, R1, R2", "computes in floating point") for opcode in FLOAT_OPCODES.split()),
        ("HFMA2.MMA R9, R0, 1, 1, R9", "computes in floating point"),
        ("HFMA2.MMA R9, -RZ, RZ, 0, R9", "computes in floating point"),
        ("HFMA2.MMA R9, -RZ, R1, 0, 0", "computes in floating point"),
        ("ATOMG.E.ADD.F32.FTZ.RN.STRONG.GPU PT, R0, [R2.64], R4", "computes in floating point"),
        ("RED.E.ADD.F16x2.RN.STRONG.GPU [R2.64], R4", "computes in floating point"),
        ("LDL R0, [R1+0x4]", "uses local memory"),
        ("STL.64 [R1+0x4], R2", "uses local memory"),
        ("TEX.SCR R0, R1, R2, 0x0", "is not a known instruction"),
        ("???", "is not a known instruction"),
    ],
)
def test_floats_in_machine_code(instruction: str, reason: str) -> None:
    with pytest.raises(VerifyError, match=rf"in 1 kernels or functions:\n  kern: .*{reason}"):
        prove_no_float_sass(SASS.replace("INSTRUCTION", instruction), [])


def test_functions_of_machine_code_are_read() -> None:
    other = SASS.replace("kern", "helper").replace("STO_CUDA_ENTRY ", "").replace("INSTRUCTION", "RET.REL R2")
    kern, helper = sass.read(SASS.replace("INSTRUCTION", "EXIT") + other)
    assert (kern.name, kern.is_kernel, kern.instructions[1]) == ("kern", True, "EXIT")
    assert (helper.name, helper.is_kernel, helper.instructions[1]) == ("helper", False, "RET.REL R2")


def test_without_a_disassembler_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disassembler, "programs", lambda name: [])
    with pytest.raises(IntvitError, match=r"nvdisasm is not found.*pip install nvidia-cuda-nvdisasm"):
        disassemble(b"")


def test_what_is_no_image_cannot_be_disassembled() -> None:
    if not find_disassemblers():
        pytest.skip("nvdisasm is not found: pip install nvidia-cuda-nvdisasm")
    with pytest.raises(IntvitError, match="the image cannot be disassembled"):
        disassemble(b"not an image")
