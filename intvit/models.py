"""From a name to a float model: `timm:`, `torchvision:`, `hf:`, or `package.module:function`.

Nothing is random unless asked for: a name needs `--weights FILE`, `pretrained` (the library's own download) or
`random` (seeded). A folder or repository named by `hf:` holds its weights, and one's own function returns them.
"""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from intvit import transforms
from intvit.errors import IntvitError
from intvit.hub import build_from_hub
from intvit.libraries import import_library
from intvit.preprocess import Preprocessing
from intvit.weights import check_finite, load_weights, read_weights

LIBRARIES = ("timm", "torchvision", "hf")
_FORMS = "timm:MODEL, torchvision:MODEL, hf:FOLDER-OR-REPOSITORY or package.module:function"


@dataclass(frozen=True)
class ResolvedModel:
    """A float model in eval mode with what its library knows of it; `notes` are for the user to read."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing | None = None
    labels: list[str] | None = None
    notes: tuple[str, ...] = ()


def resolve(name: str, weights: str | Path | None = None, *, seed: int = 0, **options: Any) -> ResolvedModel:
    """Build the model `name` with weights from a file, 'pretrained' or 'random'; `options` go to its constructor."""
    library, separator, rest = name.partition(":")
    if not separator or not rest or not library:
        raise IntvitError(f"{name}: not a model's name; write {_FORMS}{_with_library(name)}")
    build: Callable[..., ResolvedModel] = {
        "timm": _from_timm,
        "torchvision": _from_torchvision,
        "hf": _from_hub,
    }.get(library, _from_function)
    with _seeded(seed):
        resolved = build(name, rest, weights, options)
    resolved.module.eval().float().requires_grad_(False)
    check_finite(resolved.module, name if weights is None else f"{name} with {weights}")
    return resolved


def _from_timm(name: str, model: str, weights: str | Path | None, options: dict[str, Any]) -> ResolvedModel:
    timm = import_library("timm")
    if not timm.is_model(model.partition(".")[0]):
        raise IntvitError(f"{name}: timm has no such model{_suggest(model, timm.list_models(), 'timm:')}")
    _require_weights(name, weights)
    module = _construct(name, timm.create_model, model, pretrained=weights == "pretrained", **options)
    _load_file(module, weights)
    return ResolvedModel(name, module, transforms.timm_preprocessing(module), transforms.timm_labels(module))


def _from_torchvision(name: str, model: str, weights: str | Path | None, options: dict[str, Any]) -> ResolvedModel:
    models = import_library("torchvision").models
    if model not in models.list_models():
        suggestion = _suggest(model, models.list_models(), "torchvision:")
        raise IntvitError(f"{name}: torchvision has no such model{suggestion}")
    _require_weights(name, weights)
    download = "DEFAULT" if weights == "pretrained" else None
    module = _construct(name, models.get_model, model, weights=download, **options)
    _load_file(module, weights)
    preprocessing = transforms.torchvision_preprocessing(model, module)
    return ResolvedModel(name, module, preprocessing, transforms.torchvision_labels(model, module))


def _from_hub(name: str, source: str, weights: str | Path | None, options: dict[str, Any]) -> ResolvedModel:
    state = read_weights(weights) if weights not in (None, "pretrained", "random") else None
    built = build_from_hub(source, state, random=weights == "random", weights_name=str(weights), options=options)
    labels = transforms.transformers_labels(built.config, built.module)
    return ResolvedModel(name, built.module, built.preprocessing, labels, built.notes)


def _from_function(name: str, function: str, weights: str | Path | None, options: dict[str, Any]) -> ResolvedModel:
    package = name.partition(":")[0]
    with _importable_from_here(package):
        try:
            found = importlib.import_module(package)
        except Exception as error:  # whatever the user's module raises, a missing one included
            if isinstance(error, ModuleNotFoundError) and error.name in _parents(package):
                hint = _suggest(package, list(LIBRARIES), "")
                raise IntvitError(f"{name}: no module {error.name}{hint}; the forms are {_FORMS}") from None
            raise IntvitError(f"{name}: importing {package} failed ({type(error).__name__}: {error})") from error
        maker = getattr(found, function, None)
        if not callable(maker):
            functions = [member for member, _ in inspect.getmembers(found, callable)]
            raise IntvitError(
                f"{name}: {package} has no function {function}{_suggest(function, functions, package + ':')}"
            )
        module = _construct(name, maker, **options)
    if not isinstance(module, nn.Module):
        raise IntvitError(f"{name}: returned {type(module).__name__}; the function has to return a torch.nn.Module")
    _load_file(module, weights)
    labels = getattr(module, "labels", None)
    names = list(labels) if isinstance(labels, (list, tuple)) else None
    return ResolvedModel(name, module, preprocessing_of(module), names)


def preprocessing_of(module: nn.Module) -> Preprocessing | None:
    """What a module says of its own preprocessing: an attribute of that name, or timm's `pretrained_cfg`."""
    own = getattr(module, "preprocessing", None)
    if isinstance(own, Preprocessing):
        return own
    return transforms.timm_preprocessing(module) if hasattr(module, "pretrained_cfg") else None


def _require_weights(name: str, weights: str | Path | None) -> None:
    if weights is None:
        choices = "--weights FILE, --weights pretrained (download) or --weights random"
        raise IntvitError(f"{name}: the name alone has no weights; pass {choices}")


def _load_file(module: nn.Module, weights: str | Path | None) -> None:
    if weights not in (None, "pretrained", "random"):
        load_weights(module, read_weights(weights), weights)


def _construct(name: str, maker: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a constructor; what it raises becomes one line."""
    try:
        return maker(*args, **options)
    except IntvitError:
        raise
    except Exception as error:  # a user's function, or a download, may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise IntvitError(f"{name}: could not be built ({type(error).__name__}: {reason})") from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The same random weights every time, without touching the caller's generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _importable_from_here(package: str) -> Iterator[None]:
    """Look in the working directory too, last, and only for a package that is not found elsewhere."""
    here = str(Path.cwd())
    try:
        elsewhere = importlib.util.find_spec(package.partition(".")[0]) is not None
    except ValueError:
        elsewhere = True
    if elsewhere or here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _parents(package: str) -> set[str]:
    parts = package.split(".")
    return {".".join(parts[: end + 1]) for end in range(len(parts))}


def _suggest(wrong: str, known: list[str], prefix: str) -> str:
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(prefix + match for match in close)}?" if close else ""


def _with_library(name: str) -> str:
    """A suggestion for a model named without its library."""
    if not name.isidentifier() or importlib.util.find_spec("timm") is None:
        return ""
    return f"; did you mean timm:{name}?" if import_library("timm").is_model(name) else ""
