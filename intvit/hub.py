"""A transformers model from a local folder or a repository of the Hugging Face hub, with its image processor.

The class is the one that `config.json` names; of a text-and-image model (CLIP, SigLIP) it is the vision tower.
transformers itself loads the weights, because it renames the keys of older checkpoints, but what it would only warn of
is refused.
"""

import contextlib
import inspect
import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from intvit.errors import IntvitError, UnsupportedOp
from intvit.libraries import import_library
from intvit.preprocess import Preprocessing
from intvit.transforms import processor_preprocessing
from intvit.weights import refuse_mismatch


@dataclass(frozen=True)
class HubModel:
    """What a folder or repository gives."""

    config: Any
    module: nn.Module
    preprocessing: Preprocessing | None
    notes: tuple[str, ...]


def build_from_hub(
    source: str, state: Mapping[str, Tensor] | None, random: bool, weights_name: str, options: dict[str, Any]
) -> HubModel:
    """Build the model of `source` with `state`, with random weights, or with the weights that lie there."""
    transformers = import_library("transformers")
    with _quiet():
        saved, local = _find_config(transformers, source, options)
        model_class, tower = _model_class(transformers, saved, source)
        config = saved
        if tower:
            config = model_class.config_class.from_pretrained(source, local_files_only=local, **options)
            config.projection_dim = getattr(saved, "projection_dim", None)  # the whole model's, not the tower's, counts
        if random:
            module = model_class(config)
        else:
            keywords = {"local_files_only": local} if state is None else {"state_dict": dict(state)}
            name = f"hf:{source}" if state is None else weights_name
            module = _load(model_class, source if state is None else None, config, keywords, tower, name)
        preprocessing, notes = _preprocessing(transformers, source, saved, local)
    return HubModel(config, module, preprocessing, notes)


def _find_config(transformers: Any, source: str, options: dict[str, Any]) -> tuple[Any, bool]:
    """The configuration, and whether everything is to be taken from this machine (a folder, or the cache)."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise IntvitError(f"hf:{source}: the folder has no config.json; give one that save_pretrained wrote")
    if not folder.is_dir() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise IntvitError(f"hf:{source}: no such folder; check the path")
    try:
        return transformers.AutoConfig.from_pretrained(source, local_files_only=True, **options), True
    except (OSError, ValueError) as error:
        if folder.is_dir():
            reason = str(error).partition("\n")[0]
            raise IntvitError(f"hf:{source}: config.json is not one that transformers knows ({reason})") from error
    advice = "download the repository and give its folder as hf:/path"
    if not _hub_reachable():
        raise IntvitError(f"hf:{source}: not in the cache, and the Hugging Face hub cannot be reached; {advice}")
    try:
        return transformers.AutoConfig.from_pretrained(source, **options), False
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise IntvitError(f"hf:{source}: not in the cache and not to be had ({reason}); {advice}") from error


def _model_class(transformers: Any, config: Any, source: str) -> tuple[Any, bool]:
    """The class that the configuration names, and whether it is only the vision tower of what was saved."""
    names = list(getattr(config, "architectures", None) or [])
    found = getattr(transformers, names[0], None) if names else None
    if found is None:
        mapping = transformers.AutoModel._model_mapping
        found = mapping.get(type(config), None)
    if found is None:
        raise IntvitError(f"hf:{source}: transformers has no class {names or type(config).__name__} for this model")
    if hasattr(config, "vision_config") and getattr(found, "main_input_name", "") != "pixel_values":
        family = type(config).__name__.removesuffix("Config")
        towers = (f"{family}VisionModelWithProjection", f"{family}VisionModel")
        tower = next((getattr(transformers, name) for name in towers if hasattr(transformers, name)), None)
        if tower is None:
            raise IntvitError(f"hf:{source}: {found.__name__} takes text, and intvit knows no vision tower of it")
        return tower, True
    if "pixel_values" not in inspect.signature(found.forward).parameters:
        raise UnsupportedOp(f"hf:{source}: {found.__name__} takes {found.main_input_name}, not images")
    return found, False


def _load(
    model_class: Any, source: str | None, config: Any, keywords: dict[str, Any], tower: bool, name: str
) -> nn.Module:
    try:
        module, report = model_class.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to be told of them all, and refuse
            **keywords,
        )
    except Exception as error:  # OSError without a weights file, SafetensorError and others for a damaged one
        reason = str(error).partition("\n")[0]
        raise IntvitError(f"{name}: no loadable weights ({reason}); pass --weights FILE or --weights random") from error
    mismatched = [f"{key} {list(got)}, the model has {list(want)}" for key, got, want in report["mismatched_keys"]]
    refuse_mismatch(name, report["missing_keys"], () if tower else report["unexpected_keys"], mismatched)
    assert isinstance(module, nn.Module)
    return module


def _preprocessing(
    transformers: Any, source: str, saved: Any, local: bool
) -> tuple[Preprocessing | None, tuple[str, ...]]:
    """From preprocessor_config.json, or else from the architecture's default processor, which is said in a note."""
    notes = []
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil", local_files_only=local)
        found = processor_preprocessing(processor)
    except (OSError, ValueError, ImportError):
        mapping = import_library("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING
        choices = mapping.get(type(saved), {})
        if choices.get("pil") is None:
            return None, (f"hf:{source}: no image preprocessing is known for it; set it, or give tensors as data",)
        processor = choices["pil"]()
        found = processor_preprocessing(processor)
        size = getattr(getattr(saved, "vision_config", saved), "image_size", None)
        if found is not None and size is not None:
            found = found.override(size=tuple(size) if isinstance(size, (list, tuple)) else int(size))
        notes.append(
            f"hf:{source}: no preprocessor_config.json; the defaults of {type(processor).__name__} are assumed"
        )
    if found is None:
        notes.append(
            f"hf:{source}: {type(processor).__name__} cannot be expressed; set the preprocessing, or give tensors"
        )
    return found, tuple(notes)


def _hub_reachable() -> bool:
    """Whether the hub's name resolves, which takes milliseconds where the hub's client retries for half a minute."""
    constants = import_library("huggingface_hub").constants
    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(urllib.parse.urlparse(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and load reports of transformers; what matters of them is raised here."""
    transformers_logging = import_library("transformers.utils.logging")
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
