"""The named networks. Official CRATE-MAE sizes; Meta's ViT-MAE, and the decoder that the CRATE paper compares against.

crate_mae_*          Ma-Lab-Berkeley/CRATE, model/crate_ae: encoder and decoder of one width and depth
vit_mae_*            He et al. 2022 with Meta's decoder, 8 layers of 512
vit_mae_base_paper   the 143.8 M of the CRATE-MAE paper's table: a decoder of 8 layers of 768
vit_mae_small        47.6 M in that table; width 384 with Meta's decoder fits (inferred)
"""

_META_DECODER = {"decoder_depth": 8, "decoder_width": 512, "decoder_num_heads": 16}

SIZES = {
    "crate_mae_tiny": {"width": 384, "num_heads": 6, "depth": 12, "decoder_depth": 12},
    "crate_mae_small": {"width": 576, "num_heads": 12, "depth": 12, "decoder_depth": 12},
    "crate_mae_base": {"width": 768, "num_heads": 12, "depth": 12, "decoder_depth": 12},
    "crate_mae_large": {"width": 1024, "num_heads": 16, "depth": 24, "decoder_depth": 24},
    "vit_mae_small": {"width": 384, "num_heads": 6, "depth": 12, **_META_DECODER},
    "vit_mae_base": {"width": 768, "num_heads": 12, "depth": 12, **_META_DECODER},
    "vit_mae_large": {"width": 1024, "num_heads": 16, "depth": 24, **_META_DECODER},
    "vit_mae_huge": {"width": 1280, "num_heads": 16, "depth": 32, "patch_size": 14, **_META_DECODER},
    "vit_mae_base_paper": {
        "width": 768, "num_heads": 12, "depth": 12, "decoder_depth": 8, "decoder_width": 768, "decoder_num_heads": 16,
    },
}  # fmt: skip
