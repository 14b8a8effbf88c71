"""Weights from a file into a module, completely or not at all.

A checkpoint that does not fit loads silently in many tools and gives garbage. Here every key must be there with its
shape, every value must be finite, and nothing of a file is executed (`weights_only=True`). Training scripts wrap their
state dict and prefix its keys; the usual wrappings are undone, an averaged copy (EMA) first, as timm does.
"""

import argparse
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.errors import IntvitError

StateDict = dict[str, Tensor]
_CONTAINERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def read_weights(path: str | Path) -> StateDict:
    """The state dict of a .safetensors file or of one that `torch.save` wrote."""
    path = Path(path)
    if not path.is_file():
        kind = "is not a file" if path.exists() else "no such file"
        raise IntvitError(f"{path}: {kind}; --weights takes a {' or '.join(_SUFFIXES[:3])} file, or 'random'")
    if path.suffix not in _SUFFIXES:
        raise IntvitError(f"{path}: unknown kind of weights {path.suffix!r}; give one of {', '.join(_SUFFIXES)}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrapped(content)
    if not state:
        keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise IntvitError(f"{path}: holds no state dict (found: {keys[:200] or 'nothing'}); save model.state_dict()")
    return state


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `state` into `module`; one error lists every key that is missing, unexpected or of another shape."""
    expected = module.state_dict()
    recomputed = {name for name, _ in module.named_buffers()} - set(expected)  # non-persistent, such as index tables
    missing = [f"{name} {_shape(expected[name])}" for name in expected if name not in state and not _counter(name)]
    unexpected = [f"{name} {_shape(state[name])}" for name in state if name not in expected and name not in recomputed]
    both = [name for name in expected if name in state]
    differing = [name for name in both if state[name].shape != expected[name].shape]
    mismatched = [f"{name} {_shape(state[name])}, the model has {_shape(expected[name])}" for name in differing]
    refuse_mismatch(source, missing, unexpected, mismatched)
    module.load_state_dict({name: state[name] for name in both}, strict=False)
    check_finite(module, source)


def refuse_mismatch(
    source: str | Path, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str]
) -> None:
    """Raise if any list holds a key: a first line with the numbers, then every key."""
    kinds = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(mismatched)}
    found = {kind: keys for kind, keys in kinds.items() if keys}
    if found:
        counts = ", ".join(f"{len(keys)} {kind}" for kind, keys in found.items())
        lines = [f"{source}: these weights do not fit the model (keys: {counts}); give this model's own weights"]
        lines += [f"  {kind}: {key}" for kind, keys in found.items() for key in keys]
        raise IntvitError("\n".join(lines))


def check_finite(module: nn.Module, source: str | Path = "model") -> None:
    """Refuse NaN and infinity in the parameters, and NaN in the buffers (a mask may hold -inf)."""
    bad = [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]
    bad += [name for name, value in module.named_buffers() if value.is_floating_point() and bool(value.isnan().any())]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise IntvitError(f"{source}: NaN or infinity in {', '.join(bad[:3])}{more}; the weights are damaged")


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise IntvitError(f"{path}: not a readable safetensors file ({error}); download or save it again") from error


def _read_torch(path: Path) -> Any:
    try:
        # Training scripts save their arguments beside the weights: a Namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "it holds Python objects, a whole model perhaps" if "global" in str(error).lower() else "it is damaged"
        raise IntvitError(f"{path}: cannot be loaded safely ({reason}); save model.state_dict()") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise IntvitError(f"{path}: not a readable torch file ({reason}); download or save it again") from error


def _unwrapped(content: Any) -> StateDict:
    """The mapping of names to tensors inside the containers, without the prefixes of wrappers."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        return {}
    state = {str(name): value for name, value in content.items()}
    for prefix in _PREFIXES * 2:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # checkpoints older than the counter lack it; inference ignores it


def _shape(value: Tensor) -> str:
    return str(list(value.shape))
