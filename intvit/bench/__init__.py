"""Latency of a compiled module against the runtimes that users have: `intvit bench` and the scripts of `bench/`.

| file                | what                                                                        |
|---------------------|-----------------------------------------------------------------------------|
| `timing.py`         | peers take turns in rounds; median, percentiles, ratio with its spread; numpy only |
| `machine.py`        | what the figures were taken on: CPU, instruction sets, memory, versions       |
| `memory.py`         | peak resident memory of a fresh process that loads and runs a module          |
| `kernels.py`        | the steps of a profile added up by kernel                                     |
| `names.py`          | the names of the peers                                                        |
| `peers.py`          | the peers, all made of one float module                                       |
| `torch_peers.py`    | torch eager and `torch.compile`, float32 and bfloat16                         |
| `onnx_peers.py`     | ONNX Runtime, float32 and int8 QDQ                                            |
| `openvino_peers.py` | OpenVINO float32, bfloat16 and int8 (NNCF)                                    |
| `subjects.py`       | float models by name, with random weights that all take part                |
| `matrix.py`         | what can be shown of a float model: every proof, how near, how fast         |
| `packages.py`       | imports of optional packages, and the line that says how to install them      |
"""
