"""What the compiler makes of the kernels: no floating point, and code for processors that are not here."""

import pytest

from intvit.building import build, build_object
from intvit.geometry import Geometry
from intvit.kernels.attention import attention
from intvit.kernels.attention_published import attention_published
from intvit.kernels.biased_attention import biased_attention
from intvit.kernels.depthwise import depthwise
from intvit.kernels.divide import divide
from intvit.kernels.elementwise import elementwise
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize
from intvit.kernels.gelu import Gelu
from intvit.kernels.gelu_published import gelu_published
from intvit.kernels.groupnorm import Groups as NormGroups
from intvit.kernels.groupnorm import groupnorm
from intvit.kernels.heads import Heads
from intvit.kernels.isa import AMX, AVX2, AVX512, AVX512_VNNI, DOTPROD, SSE2, WIDE, Isa, detect
from intvit.kernels.layernorm import layernorm
from intvit.kernels.layernorm_published import layernorm_published
from intvit.kernels.levels import Levels
from intvit.kernels.movement import concat_tokens, patchify, select_tokens
from intvit.kernels.pool import pool
from intvit.kernels.product import product
from intvit.kernels.rmsnorm import rmsnorm
from intvit.kernels.row_products import Groups, row_products
from intvit.kernels.score_bias import ScoreBias
from intvit.kernels.softmax_rows import softmax
from intvit.kernels.unfold import unfold
from intvit.verify.no_float_code import prove_no_float_instructions

tvm = pytest.importorskip("tvm")

TARGETS = {
    "x86-64": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
    "haswell": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"},
    "x86-64-v4": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v4"},
    "icelake-server": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "icelake-server"},
    "sapphirerapids": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "sapphirerapids"},
    "aarch64": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon"]},
    "dotprod": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon", "+dotprod"]},
    "riscv64": {"kind": "llvm", "mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64", "mattr": ["+m", "+v"]},
}
WINDOWS = Geometry.of([9, 9], [5, 5], [2, 2], [2, 2, 2, 2])


def kernels(isa: Isa) -> list[tvm.tirx.PrimFunc]:
    requantize = Epilogue((Bias(), Requantize(15)))
    return [
        product(72, 100, requantize, isa, name="plain"),
        product(72, 100, requantize, isa, bits=4, name="four_bits"),
        product(64, 96, Epilogue((Bias(), Add(14)), "int16"), isa, name="residual"),
        product(64, 96, Epilogue((Bias(), Requantize(15, -32768, 32767), Gelu(11, 15))), isa, name="with_gelu"),
        attention(Heads(2, 30, 30, 24, 24, isa), 15, 13, Epilogue((Requantize(15),))),
        biased_attention(
            Heads(2, 30, 30, 24, 24, isa, windows=4),
            14,
            13,
            Epilogue((Requantize(15),)),
            ScoreBias(2, 1, 30, 30, 4, True),
        ),
        layernorm(100, 14, isa),
        rmsnorm(108, 3, 14, isa),
        divide(100, 1, 3, Epilogue((Requantize(15, pre=0),)), isa),
        divide(96, 6, None, Epilogue((Requantize(15, pre=0, mul=9),)), isa, name="blocks"),
        groupnorm(NormGroups(100, 1, 30, isa.vector), 14),
        groupnorm(NormGroups(96, 32, 30, isa.vector), 14, dtype="int16", name="small_groups"),
        elementwise(70, Epilogue((Requantize(15),)), isa),
        elementwise(70, Epilogue((Levels(),)), isa, dtype="int8", name="levels"),
        concat_tokens(1, 4, 70, isa),
        select_tokens(0, 1, 4, 70, isa),
        patchify((32, 32, 3), (16, 16), isa),
        attention_published(Heads(2, 30, 30, 24, 24, isa), 15, -30, Epilogue((Requantize(15),))),
        gelu_published(70, Epilogue((Requantize(15),)), isa),
        layernorm_published(100, isa),
        row_products(Groups(2, 20, 75, 50, isa), Epilogue((Requantize(15),))),
        softmax(85, 15, 15, Epilogue((), "int16"), isa),
        softmax(85, 0, 13, Epilogue((Requantize(15),)), isa, dtype="int32", name="weights"),
        unfold(85, WINDOWS, isa),
        depthwise(85, WINDOWS, requantize, isa.vector),
        pool(85, WINDOWS, "mean", 14, isa),
        pool(85, WINDOWS, "max", 0, isa, dtype="int8", name="largest"),
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_no_floating_point_in_the_object(name, tmp_path):
    target = tvm.target.Target(TARGETS[name])
    module = tvm.IRModule({f.attrs["global_symbol"]: f for f in kernels(detect(target))})
    build_object(module, target, tmp_path / "kernels.o")
    assert prove_no_float_instructions(tmp_path / "kernels.o") > 1000


@pytest.mark.parametrize(
    ("name", "instruction", "not_even"),
    [
        ("icelake-server", "vpdpbusd", "vpmaddwd"),
        ("sapphirerapids", "tdpbssd", "vpdpbusd"),
        ("dotprod", "sdot", "smlal"),
    ],
)
def test_a_step_of_the_dot_product_is_one_instruction(name, instruction, not_even):
    target = tvm.target.Target(TARGETS[name])
    function = product(64, 64, Epilogue((Bias(),), "int32"), detect(target))
    assembly = build(tvm.IRModule({"product": function}), target).inspect_source("asm")
    assert f"{instruction}\t" in assembly and f"{not_even}\t" not in assembly


@pytest.mark.parametrize(
    ("name", "isa"),
    [
        ("x86-64", SSE2),
        ("haswell", AVX2),
        ("x86-64-v4", AVX512),
        ("icelake-server", AVX512_VNNI),
        ("sapphirerapids", AMX),
        ("aarch64", WIDE),
        ("dotprod", DOTPROD),
        ("riscv64", WIDE),
    ],
)
def test_detection(name, isa):
    assert detect(tvm.target.Target(TARGETS[name])) == isa


def test_other_kinds_of_target_are_refused():
    with pytest.raises(ValueError, match="llvm targets"):
        detect(tvm.target.Target({"kind": "c"}))
