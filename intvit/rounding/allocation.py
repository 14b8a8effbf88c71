"""How many bits the weights of each layer have, so that their bytes keep to a limit and the loss is least.

    minimize Σ_l Σ_b loss_lb z_lb        Σ_b z_lb = 1,   Σ_l Σ_b bytes_lb z_lb <= limit,   z_lb in {0, 1}

A multiple-choice knapsack, solved by HiGHS's branch and bound: the integer program of HAWQ-V3 (arXiv:2011.10680,
section 3.4) and of LRP-QViT (arXiv:2401.11243), whose scores stand where the losses do here.
"""

import math
from collections.abc import Mapping

import numpy as np

from intvit.bits import PACKED, WIDEST

CHOICES = (PACKED, WIDEST)
"""6 bits would be less accurate than 8 and save no byte."""
SCALE = 1e6
"""Of the sum of all losses in the program: the solver's absolute tolerances are far below any choice's share of it."""


def stored_bytes(weights: int, bits: int) -> int:
    """Of so many weights in a file or a module."""
    return -(-weights // 2) if bits <= PACKED else weights


def allocate(losses: Mapping[str, Mapping[int, float]], weights: Mapping[str, int], limit: int) -> dict[str, int]:
    """The bits of each layer: `losses` by layer and bits, `weights` the number that each has, `limit` in bytes.

    Raises `ValueError` where no choice keeps to the limit.
    """
    if not losses:
        return {}
    from scipy.optimize import Bounds, LinearConstraint, milp

    options = [(name, bits) for name, by_bits in losses.items() for bits in sorted(by_bits)]
    loss = np.array([losses[name][bits] for name, bits in options])
    taken = np.array([stored_bytes(weights[name], bits) for name, bits in options])
    unit = max(1, math.gcd(*taken.tolist()))
    of_layer = np.array([[name == layer for name, _ in options] for layer in losses], dtype=float)
    solution = milp(
        loss / max(float(loss.sum()), np.finfo(float).tiny) * SCALE,
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(of_layer, 1, 1), LinearConstraint(taken // unit, ub=limit // unit)],
        options={"mip_rel_gap": 0},
    )
    if solution.x is None:
        raise ValueError(f"no choice of bits takes at most {limit} bytes: {solution.message}")
    return {name: bits for (name, bits), share in zip(options, solution.x, strict=True) if share > 0.5}
