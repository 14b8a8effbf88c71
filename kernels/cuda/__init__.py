"""Integer kernels for NVIDIA GPUs, each a TIR function of one thread block, in PTX's instructions (`ptx.py`).

| file             | what                                                                        |
|------------------|-----------------------------------------------------------------------------|
| `arch.py`        | what the kernels need to know of a GPU                                      |
| `launch.py`      | one way to make a kernel: pointers, blocks, threads, shared memory          |
| `ptx.py`         | matrix products of fragments, loads of fragments, asynchronous copies       |
| `fragments.py`   | where the elements of a fragment lie: the index maps, as plain functions    |
| `arith.py`       | the rounding shift, saturation and division, on 32-bit registers            |
| `stages.py`      | the epilogue's stages (`intvit.kernels.epilogue`) on one value              |
| `store.py`       | the end of a kernel: neighbours of a row through the epilogue               |
| `product.py`     | int8 product with constant weights, and its epilogue                        |
| `heads.py`       | the sizes of an attention, and its tiles                                    |
| `shiftmax.py`    | the exponential of one score, and the mean of a row                         |
| `attention.py`   | scores, Shiftmax and `P·V`, nothing of it in device memory                  |
| `layernorm.py`   | integer LayerNorm, a warp for each row                                      |
| `rmsnorm.py`     | blocks of channels by their root mean square, a warp for each               |
| `groupnorm.py`   | normalization over tokens and a block of channels, a thread block for each  |
| `rows.py`        | rows dealt out to threads, eight neighbours each                            |
| `movement.py`    | patches of an image, tokens in front, a range of tokens                     |
| `elementwise.py` | an epilogue alone                                                           |
"""
