"""Small configurations of every family of `bench/family_list.py`: the library's own code with few and narrow blocks.

`SMALL[name]` are options of the constructor, and the size of the images where the library does not tell.
"""

from typing import Any

_PLAIN = {"img_size": 48, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
_TOWER = {**_PLAIN, "num_classes": 0}
_DINOV2 = {**_TOWER, "img_size": 56}
_STAGES = {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_classes": 10}
_SWIN = {"img_size": 48, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 32, "window_size": 4, "num_classes": 10}
_MAXVIT = {"img_size": 64, "depths": (1, 1), "embed_dim": (32, 64), "stem_width": 16, "num_classes": 10}
_TV_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
_TV_SWIN = {"patch_size": [4, 4], "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
_TV_MAXVIT = {
    "input_size": (64, 64),
    "stem_channels": 16,
    "partition_size": 4,
    "block_channels": [16, 32],
    "block_layers": [1, 1],
    "head_dim": 16,
    "stochastic_depth_prob": 0.0,
}
_VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
_HF_SWIN = {"image_size": 48, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_HF_LEVELS = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64], "num_attention_heads": [1, 2, 3, 4]}

SMALL: dict[str, tuple[dict[str, Any], int | None]] = {
    "timm:vit_tiny_patch16_224": (_PLAIN, None),
    "timm:vit_medium_patch16_reg4_gap_256": (_PLAIN, None),
    "timm:deit_tiny_distilled_patch16_224": (_PLAIN, None),
    "timm:deit3_small_patch16_224": (_PLAIN, None),
    "timm:vit_small_patch14_dinov2": (_DINOV2, None),
    "timm:vit_small_patch14_reg4_dinov2": (_DINOV2, None),
    "timm:vit_small_patch16_dinov3": (_TOWER, None),
    "timm:vit_base_patch16_clip_quickgelu_224": (_PLAIN, None),
    "timm:vit_base_patch16_siglip_224": (_TOWER, None),
    "timm:beit_base_patch16_224": (_PLAIN, None),
    "timm:eva02_tiny_patch14_224": ({**_DINOV2, "num_classes": 10}, None),
    "timm:cait_xxs24_224": ({**_PLAIN, "depth_token_only": 1}, None),
    "timm:swin_tiny_patch4_window7_224": (_SWIN, None),
    "timm:swinv2_tiny_window8_256": (_SWIN, None),
    "timm:maxvit_nano_rw_256": (_MAXVIT, 64),
    "timm:coatnet_nano_rw_224": ({**_MAXVIT, "depths": (1, 1, 1, 1), "embed_dim": (16, 32, 64, 64)}, 64),
    "timm:pvt_v2_b0": ({**_STAGES, "num_heads": (1, 2, 3, 4)}, 64),
    "timm:efficientformer_l1": ({**_STAGES, "num_vit": 1}, 224),
    "timm:efficientformerv2_s0": ({**_STAGES, "num_vit": 1, "mlp_ratios": (2, 2, 2, 2), "img_size": 64}, 64),
    "timm:tiny_vit_5m_224": ({**_STAGES, "num_heads": (1, 2, 3, 4), "window_sizes": (4, 4, 4, 4)}, 64),
    "timm:levit_128s": ({"embed_dim": (32, 48, 64), "depth": (1, 1, 1), "num_classes": 10}, 224),
    "timm:efficientvit_m0": ({"embed_dim": (64, 64, 64), "depth": (1, 1, 1), "num_classes": 10}, 224),
    "timm:efficientvit_b0": ({"num_classes": 10, "depths": (1, 1, 1, 1, 1), "head_widths": (64, 64)}, 64),
    "timm:xcit_nano_12_p16_224": ({**_PLAIN, "cls_attn_layers": 1, "num_heads": 4}, 48),
    "timm:twins_svt_small": ({**_STAGES, "img_size": 64, "num_heads": (1, 2, 3, 4)}, 64),
    "timm:convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "num_classes": 10}, 64),
    "timm:fastvit_t8": ({"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128), "num_classes": 10}, 64),
    "timm:edgenext_xx_small": ({"depths": (1, 2, 2, 2), "num_classes": 10}, 64),
    "timm:hiera_tiny_224": ({"img_size": (64, 64), "stages": (1, 1, 1, 1), "embed_dim": 16, "num_classes": 10}, 64),
    "torchvision.models:VisionTransformer": (_TV_VIT, 32),
    "torchvision.models.swin_transformer:SwinTransformer": (_TV_SWIN, 48),
    "torchvision.models.maxvit:MaxVit": (_TV_MAXVIT, 64),
    "transformers:ViTForImageClassification": (_VISION, None),
    "transformers:DeiTForImageClassificationWithTeacher": (_VISION, None),
    "transformers:SwinForImageClassification": (_HF_SWIN, None),
    "transformers:Swinv2ForImageClassification": (_HF_SWIN, None),
    "transformers:Dinov2Model": (_VISION, None),
    "transformers:Dinov2WithRegistersModel": (_VISION, None),
    "transformers:DINOv3ViTModel": (_VISION, None),
    "transformers:CLIPVisionModelWithProjection": ({**_VISION, "projection_dim": 32}, None),
    "transformers:SiglipVisionModel": (_VISION, None),
    "transformers:BeitForImageClassification": (_VISION, None),
    "transformers:PvtV2ForImageClassification": (
        {**_HF_LEVELS, "hidden_sizes": [16, 32, 48, 64], "image_size": 64, "sr_ratios": [8, 4, 2, 1]},
        None,
    ),
    "transformers:MobileViTV2ForImageClassification": (
        {"image_size": 64, "n_attn_blocks": [1, 1, 1], "width_multiplier": 0.5, "num_labels": 10},
        None,
    ),
    "transformers:MobileViTForImageClassification": ({"image_size": 64, "hidden_sizes": [48, 48, 64]}, None),
    "transformers:PoolFormerForImageClassification": (
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
        64,
    ),
    "transformers:LevitForImageClassification": (
        {"hidden_sizes": [32, 48, 64], "depths": [1, 1, 1]},
        None,
    ),
}
