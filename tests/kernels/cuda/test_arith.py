"""Integer arithmetic in registers: the division bit by bit, for every divisor that kernels have, and the bit length."""

import numpy as np
from emulation.simt import Kernels
from tvm.tirx.script import builder as T

from intvit.cuda.source import cuda_source
from intvit.kernels.arith import Buffer
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.cuda.arith import bit_length, divided, let
from intvit.kernels.cuda.launch import Block, device_kernel

THREADS = 128
BITS = 15


def test_division_and_bit_length() -> None:
    """Every divisor of 1 to 2^16, of dividends around those of a row's mean and of LayerNorm's root."""

    def body(block: Block, a: Buffer, b: Buffer, y: Buffer, bits: Buffer) -> None:
        i = let(block.index * THREADS + block.thread)
        T.buffer_store(y, divided(a[i], b[i], BITS), [i])
        T.buffer_store(bits, bit_length(a[i]), [i])

    pointers = [(name, "int32") for name in ("a", "b", "y", "bits")]
    kernel = device_kernel("divide", pointers, body, threads=THREADS, per=THREADS)
    kernels = Kernels(cuda_source({kernel: "divide"}, ARCHS["sm_90"]))
    b = np.arange(1, (1 << 16) + 1, dtype=np.int32)
    for a in (np.zeros_like(b), b - 1, b, np.full_like(b, 1 << 29), (1 << 30) + (b >> 1), b * 32767):
        a = a.astype(np.int32)
        y, bits = np.empty_like(b), np.empty_like(b)
        kernels.launch("divide", len(b) // THREADS, THREADS, kernel.shared, a, b, y, bits, len(b))
        np.testing.assert_array_equal(y, np.minimum(a // b, (1 << BITS) - 1))
        np.testing.assert_array_equal(bits, [int(value).bit_length() for value in a])
