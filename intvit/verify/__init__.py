"""Proofs about an integer model: no overflow, no float, and the same bits on every back end.

| file                 | proves                                                                |
|----------------------|-----------------------------------------------------------------------|
| `overflow.py`        | interval analysis over the integer graph with its real weights         |
| `no_float.py`        | no float in the integer graph                                          |
| `no_float_module.py` | no float in the functions of the TVM module                            |
| `no_float_code.py`   | no floating-point arithmetic in the machine code, which `machine` reads |
| `no_float_cuda.py`   | the same of CUDA kernels, in their PTX and in their machine code        |
| `no_float_onnx.py`   | no float between the ends of an exported ONNX model                     |
| `bit_exact.py`       | equal integers on random, extreme and real images                      |
"""
