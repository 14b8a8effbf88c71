"""How many bits the weights and the activations of each product have: `W8A8`, `W4A8`, `W6A6`, `W4A4`, `mixed`, ..."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from intvit import floatops
from intvit.errors import IntvitError
from intvit.nodes import arguments

WIDEST, NARROWEST = 8, 3
PACKED = 4
"""Files and modules hold weights of up to 4 bits two to a byte, and all others one to a byte (`intvit.nibbles`)."""
MIXED = "mixed"
BUDGET = 0.7
"""Of mixed bits by default."""


@dataclass(frozen=True)
class Bits:
    """Of the weights of linear layers, and of the operands of products; everything between keeps 16 and 32 bits.

    The layers that read the image and that give the answer keep 8 bits, as everywhere in the literature: they are a
    few percent of the weights.

    `budget`: weights are mixed, each layer's own choice of bits, and take at most this share of their bytes at 8 bits.
    """

    weights: int = WIDEST
    activations: int = WIDEST
    budget: float | None = None

    @classmethod
    def of(cls, text: str, budget: float | None = None) -> "Bits":
        """`W4A8` as 4 bits for weights and 8 for activations; `mixed` with a budget."""
        if text.lower() == MIXED:
            share = BUDGET if budget is None else budget
            if not 0 < share <= 1:
                raise IntvitError(f"a budget of {share:g}: give a share of the weights' bytes at 8 bits, such as 0.7")
            return cls(budget=share)
        if budget is not None:
            raise IntvitError(f"a budget is of bits that are {MIXED}, not of {text}: leave out one of them")
        found = re.fullmatch(r"W(\d)A(\d)", text.upper())
        numbers = [] if found is None else [int(number) for number in found.groups()]
        if not numbers or not all(NARROWEST <= number <= WIDEST for number in numbers):
            raise IntvitError(
                f"unknown bits {text!r}: write W8A8, W4A8, W6A6, W4A4 or {MIXED}, {NARROWEST} to {WIDEST} of each"
            )
        return cls(*numbers)

    @property
    def fewest(self) -> int:
        """Those that the weights of a layer may have, before they are chosen."""
        return self.weights if self.budget is None else PACKED

    def __str__(self) -> str:
        return f"W{self.weights}A{self.activations}" if self.budget is None else f"{MIXED} {self.budget:.2f}"

    @property
    def whole(self) -> bool:
        """Whether every operand has 8 bits by itself, without a choice."""
        return self == Bits()


Width = Callable[[fx.Node], int]
"""The bits of the weights of each linear layer."""


def whole(layer: fx.Node) -> int:
    """The `Width` without a choice."""
    return WIDEST


def keeps_whole(node: fx.Node) -> bool:
    """A layer that reads the image or gives an answer."""
    return reads_image(arguments(node)[0]) or answers(node)


def answers(node: fx.Node) -> bool:
    """Whether a result is an answer, or part of one: selected, or of one token and added to others."""
    return any(user.op == "output" or (_hands_on(user) and answers(user)) for user in node.users)


def _hands_on(node: fx.Node) -> bool:
    if node.target in (floatops.add, floatops.multiply):
        return bool(node.meta["shape"][0] == 1)
    return node.target is floatops.select_tokens


def reads_image(node: fx.Node) -> bool:
    if node.target is floatops.unfold or node.target is floatops.rearrange:
        return any(reads_image(x) for x in node.all_input_nodes)
    return node.op == "placeholder" or node.target is floatops.patchify
