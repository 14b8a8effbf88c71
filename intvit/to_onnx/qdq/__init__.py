"""The profile `qdq`: float operators between QuantizeLinear and DequantizeLinear, for runtimes that fuse these.

    x -> QuantizeLinear -> DequantizeLinear -> MatMul <- DequantizeLinear <- int8 weights      then - (-bias), GELU, ...

Not bit-exact: weights, biases and scales are those of the integer model, but what it approximates (Shiftmax, ShiftGELU,
its LayerNorm, dyadic numbers, 16-bit sums) is the float function here. All scales come from the integer graph
(`scales.py`).

| file        | what                                                           |
|-------------|----------------------------------------------------------------|
| `scales.py` | the real number that an integer of each tensor stands for      |
| `values.py` | values of the ONNX graph with their scales; pairs, tables      |
| `pixels.py` | the input as rows of pixels                                    |
| `layers.py` | the float form of each operation of the dialect                |

What is quantized, and how, was decided by measuring DeiT-Tiny: agreement with float over 1200 images, and latency at
batch 1 on two threads of a Zen 4, in turns with the runtime's own quantizer, whose latency is 1.

|                                                        | ONNX Runtime 1.31 | OpenVINO 2026.4 |
|--------------------------------------------------------|-------------------|-----------------|
| the runtime's own quantizer                            | 96.33 %, 1        | 96.75 %, 1      |
| uint8 activations, zero points 128 and GELU's          | 98.42 %, 0.76     | 98.83 %, 0.95   |
| **int8 without zero points, GELU moved to the middle** | 98.75 %, 0.78     | 98.58 %, 0.91   |
| int8 without zero points, GELU with half its steps     | 96.92 %, 0.75     | 97.33 %, 0.94   |
| the first of these, and attention's products in int8   | 96.83 %, -5 %     | 96.75 %, -5 %   |

* **Activations are int8 with zero point 0**, the form that TensorRT takes. ONNX Runtime's product of int8 with int8 is
  slow on x86, but it makes uint8 of a pair that has one reader; so linears that read the same tensor are one product
  (queries, keys and values, then Split), without which it takes 1.7 times as long.
* **GELU's result lies between -0.17 and its largest value**: a constant is added before it is quantized, which the bias
  of the next product takes back. It costs 3 % in ONNX Runtime and nothing in OpenVINO, and without it half of the
  integers would be lost.
* **A bias is subtracted, negated**: ONNX Runtime makes a float Gemm of MatMul and Add before it looks for pairs, and
  then fuses neither (2.4 times as long); its int8 Gemm wants the bias as int32 behind a DequantizeLinear, which
  TensorRT refuses and OpenVINO runs 7 % slower.
* **Attention and the residual stream are float**: queries and keys have a scale per head and values one per channel,
  which a pair of one scale would lose.
* **The patch embedding is a product of rows**: as a Conv it takes a fifth longer in OpenVINO and 5 % in ONNX Runtime.

Here "longer" is the whole model's latency. Nothing was measured in TensorRT.
"""

from intvit.integer_model import IntegerModel
from intvit.nodes import outputs
from intvit.to_onnx.qdq.layers import Layers
from intvit.to_onnx.scope import Scope

__all__ = ["write_qdq"]


def write_qdq(model: IntegerModel, scope: Scope, image: str) -> list[str]:
    """Writes the model and returns the names of its outputs, float32 `[batch, *output_shapes[i]]`.

    It reads the graph's input `image`: uint8 `[batch, H, W, C]` or normalized float32 `[batch, C, H, W]`, as `image`
    says. TensorRT takes the latter only. Raises `IntvitError` for an operation that has no float form.
    """
    layers = Layers(model.graph, scope, image)
    layers.write()
    return [layers.output(index) for index in range(len(outputs(model.graph.module.graph)))]
