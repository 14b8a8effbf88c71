"""Kernels as machine code of every architecture: their instructions, no floats, no registers in memory. No GPU."""

from collections.abc import Callable
from functools import cache

import pytest
import tiny

from intvit.cuda.compilation import device_program, kernels_of
from intvit.cuda.image import Image
from intvit.cuda.proof import PTX, prove_no_float_images
from intvit.cuda.source import cuda_source, named
from intvit.cuda.toolkit import compile_image, find_compiler
from intvit.errors import IntvitError
from intvit.kernels.cuda.arch import ARCHS, Arch
from intvit.kernels.cuda.attention import Heads, attention
from intvit.kernels.cuda.biased_attention import biased_attention
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.kernels.cuda.layernorm import layernorm
from intvit.kernels.cuda.product import product, tiles
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize, Stage
from intvit.kernels.gelu import Gelu
from intvit.kernels.score_bias import ScoreBias

TALL = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
FLAT = "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32"
REGISTERS = 1 << 16
"""Of a multiprocessor, of all architectures."""
RESIDENT = 2
"""Blocks of a multiprocessor at least, as far as registers go: one computes while the other one waits."""


def tiny_vit(arch: Arch) -> list[DeviceKernel]:
    """Of a whole model, all alternatives."""
    steps = device_program(tiny.integer_model(), arch).steps
    return [kernel for step in steps for kernel in kernels_of(step.kernel)]


def products(k: int, n: int, arch: Arch, *stages: Stage, dtype: str = "int8", bits: int = 8) -> list[DeviceKernel]:
    stages = (Bias(), *stages)
    return [product(k, n, k, Epilogue(stages, dtype), tile, arch, n, bits=bits) for tile in tiles(n, arch)]


def deit_tiny(arch: Arch) -> list[DeviceKernel]:
    """Of DeiT-Tiny's sizes."""
    gelu = Gelu(11, 12, pre=1, mul=20000).shared
    wide = Requantize(15, -32768, 32767)
    sizes = Heads(3, 197, 197, 64, 64, (192,) * 4)
    return [
        *products(192, 192, arch, Requantize(14, pre=4)),
        *products(768, 192, arch, Add(13, arm_pre=0), dtype="int16"),
        *products(192, 768, arch, wide, gelu),
        attention(sizes, 15, 13, Epilogue((Requantize(14, pre=0),)), arch),
        layernorm(192, 14, 192, 192),
    ]


def heads(arch: Arch) -> list[DeviceKernel]:
    """Attention of the head sizes of other models, and where a head is divided among blocks."""
    stages = Epilogue((Requantize(14),))
    bias = ScoreBias(2, 4, 257, 257, 2, True)
    return [
        *(
            biased_attention(Heads(4, 257, 257, size, size, (4 * size,) * 4), 14, 15, stages, arch, bias)
            for size in (32, 64, 80)
        ),
        *(
            attention(Heads(4, 257, 257, size, size, (4 * size,) * 4), 15, bits, stages, arch)
            for size, bits in ((12, 8), (32, 13), (72, 13), (80, 15), (96, 13), (128, 13), (128, 8))
        ),
    ]


def four_bits(arch: Arch) -> list[DeviceKernel]:
    """Products with packed weights."""
    gelu = Gelu(11, 12, pre=1, mul=20000).shared
    return [
        *products(768, 192, arch, Add(13, arm_pre=0), dtype="int16", bits=4),
        *products(192, 768, arch, Requantize(15, -32768, 32767), gelu, bits=4),
    ]


KERNELS: dict[str, Callable[[Arch], list[DeviceKernel]]] = {
    "tiny": tiny_vit,
    "deit tiny": deit_tiny,
    "heads": heads,
    "four bits": four_bits,
}


@cache
def compiled(which: str, arch: Arch) -> tuple[dict[DeviceKernel, str], Image]:
    try:
        find_compiler()
    except IntvitError as error:
        pytest.skip(str(error))
    kernels = named(KERNELS[which](arch))
    return kernels, compile_image(cuda_source(kernels, arch), arch.name)


@pytest.mark.parametrize("which", KERNELS)
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
class TestEveryArchitecture:
    def test_instructions(self, which: str, arch: Arch) -> None:
        """Products of the architecture's own size, from fragments that `ldmatrix` loads, after asynchronous copies."""
        ptx = compiled(which, arch)[1].ptx
        assert (TALL in ptx) == arch.tall and (FLAT in ptx) == (not arch.tall)
        assert ("cp.async.cg.shared.global" in ptx) == ("cp.async.wait_group" in ptx) == arch.asynchronous
        assert "ldmatrix.sync.aligned.m8n8.x4.shared.b16" in ptx

    def test_no_floats(self, which: str, arch: Arch) -> None:
        """In PTX, and in machine code where there is a disassembler."""
        kernels, image = compiled(which, arch)
        images = {arch.name: image.cubin, PTX: image.ptx.encode()}
        assert prove_no_float_images(images, list(kernels.values())) > 1000

    def test_what_kernels_need(self, which: str, arch: Arch) -> None:
        """No registers in memory; two blocks find room among the registers, one in the shared memory."""
        kernels, image = compiled(which, arch)
        assert set(kernels.values()) == set(image.kernels)
        for kernel, name in kernels.items():
            needs = image.kernels[name]
            assert (needs.spills, needs.stack) == (0, 0), name
            assert RESIDENT * kernel.threads * (needs.registers + 7) // 8 * 8 <= REGISTERS, name
            assert kernel.shared + needs.shared <= arch.shared, name
