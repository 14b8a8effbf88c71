"""Proofs about an integer model: no overflow, no float, and the same bits on every back end.

| file             | proves                                                                  |
|------------------|-------------------------------------------------------------------------|
| `overflow.py`    | interval analysis over the integer graph with its real weights           |
| `no_float.py`    | no float between the boundary tensors: graph, TVM functions, machine code |
| `bit_exact.py`   | a module equals the reference on random, extreme and real images         |
"""
