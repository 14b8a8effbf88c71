"""The models of `families.py`, by name: every family in each library that has it, at published configurations.

A model is a name and options of its constructor, nothing else; what stands here is known nowhere else.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """`size` is that of the images, in pixels, where the library does not tell."""

    family: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: int | None = None


NAMES = {
    "ViT": ["timm:vit_tiny_patch16_224", "torchvision:vit_b_16", "transformers:ViTForImageClassification"],
    "ViT, registers, mean": ["timm:vit_medium_patch16_reg4_gap_256"],
    "DeiT": [
        "timm:deit_tiny_patch16_224",
        "timm:deit_tiny_distilled_patch16_224",
        "transformers:DeiTForImageClassificationWithTeacher",
    ],
    "DeiT III": ["timm:deit3_small_patch16_224"],
    "Swin": ["timm:swin_tiny_patch4_window7_224", "torchvision:swin_t", "transformers:SwinForImageClassification"],
    "Swin V2": ["timm:swinv2_tiny_window8_256", "torchvision:swin_v2_t", "transformers:Swinv2ForImageClassification"],
    "MaxViT": ["timm:maxvit_nano_rw_256", "torchvision:maxvit_t"],
    "DINOv2": ["timm:vit_small_patch14_dinov2", "transformers:Dinov2Model"],
    "DINOv2, registers": ["timm:vit_small_patch14_reg4_dinov2", "transformers:Dinov2WithRegistersModel"],
    "DINOv3": ["timm:vit_small_patch16_dinov3", "transformers:DINOv3ViTModel", "transformers:DINOv3ConvNextModel"],
    "CLIP": ["timm:vit_base_patch16_clip_quickgelu_224", "transformers:CLIPVisionModelWithProjection"],
    "SigLIP": ["timm:vit_base_patch16_siglip_224", "transformers:SiglipVisionModel"],
    "BEiT": ["timm:beit_base_patch16_224", "transformers:BeitForImageClassification"],
    "EVA-02": ["timm:eva02_tiny_patch14_224"],
    "CaiT": ["timm:cait_xxs24_224"],
    "PVT": ["transformers:PvtForImageClassification"],
    "PVT v2": ["timm:pvt_v2_b0", "transformers:PvtV2ForImageClassification"],
    "MobileViT": ["timm:mobilevit_xxs", "transformers:MobileViTForImageClassification"],
    "MobileViT v2": ["timm:mobilevitv2_050", "transformers:MobileViTV2ForImageClassification"],
    "EfficientFormer": ["timm:efficientformer_l1"],
    "EfficientFormer v2": ["timm:efficientformerv2_s0"],
    "TinyViT": ["timm:tiny_vit_5m_224"],
    "LeViT": ["timm:levit_128s", "transformers:LevitForImageClassification"],
    "EfficientViT (MSRA)": ["timm:efficientvit_m0"],
    "EfficientViT (MIT)": ["timm:efficientvit_b0"],
    "ViT-MSN": ["transformers:ViTMSNForImageClassification"],
    "I-JEPA": ["transformers:IJepaModel"],
    "BLIP": ["transformers:BlipVisionModel"],
    "InternVL": ["transformers:InternVLVisionModel"],
    "AIMv2": ["transformers:Aimv2VisionModel"],
    "CoAtNet": ["timm:coatnet_nano_rw_224"],
    "XCiT": ["timm:xcit_nano_12_p16_224"],
    "MViTv2": ["timm:mvitv2_tiny"],
    "Twins": ["timm:twins_svt_small"],
    "ConvNeXt": ["timm:convnext_atto", "transformers:ConvNextForImageClassification"],
    "PoolFormer": ["timm:poolformer_s12", "transformers:PoolFormerForImageClassification"],
    "FastViT": ["timm:fastvit_t8"],
    "GCViT": ["timm:gcvit_xxtiny"],
    "NextViT": ["timm:nextvit_small"],
    "EdgeNeXt": ["timm:edgenext_xx_small"],
    "Hiera": ["timm:hiera_tiny_224", "transformers:HieraForImageClassification"],
    "CvT": ["transformers:CvtForImageClassification"],
    "SegFormer": ["transformers:SegformerForImageClassification"],
    "SwiftFormer": ["transformers:SwiftFormerForImageClassification"],
}

FAMILIES = [Entry(family, name) for family, names in NAMES.items() for name in names]


def entry_of(name: str) -> Entry:
    """That of the list, or one of its own for any other name."""
    return next((entry for entry in FAMILIES if entry.name == name), Entry("", name))
