"""Rules by the name of the ATen operation. A rule gives `None` for a form that torch is to say in other operations."""

from collections.abc import Callable
from typing import Any, TypeVar

Rule = Callable[..., Any]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[R], R]:
    """Registers the rule of the ATen operations called `names`."""

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def pair(value: Any) -> tuple[int, int]:
    """A number, or one for each of height and width."""
    listed = [value] if isinstance(value, int) else [int(v) for v in value]
    return (listed[0], listed[0]) if len(listed) == 1 else (listed[0], listed[1])
