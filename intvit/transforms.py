"""The preprocessing and the class names that a library keeps for a model, in intvit's terms.

Each function reads one library's own configuration: timm's `pretrained_cfg`, the transforms of torchvision's weights,
or the image processor of a transformers model. What cannot be said as a `Preprocessing` gives None, never a guess.
"""

import math
import re
from typing import Any

from torch import nn

from intvit.libraries import import_library
from intvit.preprocess import Fit, Preprocessing

_STEPS = ("_preprocess", "resize", "center_crop", "rescale", "normalize")


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """What `timm.data.create_transform(**resolve_model_data_config(module))` does, at the size the module was built."""
    config = import_library("timm.data").resolve_model_data_config(module)
    size = tuple(config["input_size"][1:])
    built_for = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if isinstance(built_for, tuple) and len(built_for) == 2:
        size = built_for
    resize: Any = tuple(math.floor(side / config["crop_pct"]) for side in size)
    fit: Fit = {"squash": "squash", "border": "contain"}.get(config["crop_mode"], "cover")  # type: ignore[assignment]
    if fit == "cover" and resize[0] == resize[1]:
        resize, fit = resize[0], "squash"  # timm then hands over to torchvision, which rounds the longer side down
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return Preprocessing(size, resize, fit, "center", config["interpolation"], mean, std)


def timm_labels(module: nn.Module) -> list[str] | None:
    """ImageNet's names where the number of classes says that it is ImageNet."""
    data = import_library("timm.data")
    subset = data.infer_imagenet_subset(module)
    if subset is None:
        return None
    labels: list[str] = data.ImageNetInfo(subset).label_descriptions()
    return labels if len(labels) == getattr(module, "num_classes", None) else None


def torchvision_weights(name: str, module: nn.Module) -> Any:
    """The published weights made for the module's image size (the default ones if it has none), or None."""
    published = import_library("torchvision").models.get_model_weights(name)
    entries = sorted(published, key=lambda entry: entry is not getattr(published, "DEFAULT", None))
    size = getattr(module, "image_size", None)
    fitting = [entry for entry in entries if size is None or getattr(entry.transforms(), "crop_size", None) == [size]]
    return next(iter(fitting or entries), None)


def torchvision_preprocessing(name: str, module: nn.Module) -> Preprocessing | None:
    """What `weights.transforms()` does to a PIL image."""
    weights = torchvision_weights(name, module)
    transform: Any = weights.transforms() if weights is not None else None
    if type(transform).__name__ != "ImageClassification":
        return None
    side, resize = transform.crop_size[0], transform.resize_size[0]
    interpolation = transform.interpolation.value.removesuffix("-exact")
    mean, std = tuple(transform.mean), tuple(transform.std)
    found = Preprocessing((side, side), resize, interpolation=interpolation, mean=mean, std=std)
    return found.override(size=getattr(module, "image_size", None))


def torchvision_labels(name: str, module: nn.Module) -> list[str] | None:
    """The categories of the published weights, where the module has as many outputs."""
    weights = torchvision_weights(name, module)
    labels: list[str] | None = weights.meta.get("categories") if weights is not None else None
    linears = [layer.out_features for layer in module.modules() if isinstance(layer, nn.Linear)]
    return labels if labels and linears and linears[-1] == len(labels) else None


def processor_preprocessing(processor: Any) -> Preprocessing | None:
    """What a transformers image processor (its PIL form) does; None where it has steps of its own."""
    plain = import_library("transformers.image_processing_backends").PilBackend
    if any(getattr(type(processor), step, None) is not getattr(plain, step) for step in _STEPS):
        return None
    if getattr(processor, "do_pad", None) or getattr(processor, "do_flip_channel_order", None):
        return None
    size, crop_size = _sizes(processor.size), _sizes(getattr(processor, "crop_size", None))
    resize: Any = None
    if processor.do_resize:
        if set(size) == {"shortest_edge"}:
            resize = size["shortest_edge"]
        elif set(size) == {"height", "width"}:
            resize = (size["height"], size["width"])
        else:
            return None
    cropped = bool(getattr(processor, "do_center_crop", None)) and set(crop_size) == {"height", "width"}
    target = (crop_size["height"], crop_size["width"]) if cropped else resize
    if not isinstance(target, tuple):
        return None  # the size of the input would depend on the image
    resample = import_library("PIL.Image").Resampling(2 if processor.resample is None else int(processor.resample))
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    return Preprocessing(
        size=target,
        resize=resize,
        crop="center_floor" if cropped else "none",
        interpolation=resample.name.lower(),
        mean=_triple(mean),
        std=_triple(std),
        rescale=float(processor.rescale_factor) if processor.do_rescale else 1.0,
        alpha="white" if getattr(processor, "do_convert_rgb", None) else "drop",
    )


def transformers_labels(config: Any, module: nn.Module) -> list[str] | None:
    """`config.id2label` of a classifier, unless it is the LABEL_0, LABEL_1 that transformers makes up."""
    if "ForImageClassification" not in type(module).__name__:
        return None
    names = {int(index): str(name) for index, name in (getattr(config, "id2label", None) or {}).items()}
    invented = all(re.fullmatch(r"LABEL_\d+", name) for name in names.values())
    return None if invented or sorted(names) != list(range(len(names))) else [names[index] for index in sorted(names)]


def _sizes(size: Any) -> dict[str, int]:
    return {name: int(side) for name, side in dict(size).items() if side is not None} if size is not None else {}


def _triple(values: Any) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, (int, float)) else tuple(float(value) for value in values)
