"""Rules by the name of the ATen operation."""

from collections.abc import Callable
from typing import Any

from intvit.frontend.values import Value

Rule = Callable[..., Value]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of the ATen operations called `names`."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def pair(value: Any) -> tuple[int, int]:
    """A number, or one for each of height and width."""
    listed = [value] if isinstance(value, int) else [int(v) for v in value]
    return (listed[0], listed[0]) if len(listed) == 1 else (listed[0], listed[1])
