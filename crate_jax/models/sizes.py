"""The named networks. Official CRATE-MAE sizes; Meta's ViT-MAE, and the decoder that the CRATE paper compares against.

crate_mae_*          Ma-Lab-Berkeley/CRATE, model/crate_ae: encoder and decoder of one width and depth
vit_mae_*            He et al. 2022 with Meta's decoder, 8 layers of 512
vit_mae_base_paper   the 143.8 M of the CRATE-MAE paper's table: a decoder of 8 layers of 768
vit_mae_small        47.6 M in that table; width 384 with Meta's decoder fits (inferred)
*_classifier_*       the encoders of these with a head
crate_*              the supervised CRATE, model/crate.py

"giant" is ours: a CRATE-MAE of a billion parameters, subspaces of 64 as in base and large.
"""

_META_DECODER = {"decoder_depth": 8, "decoder_width": 512, "decoder_num_heads": 16}

_CRATE = {
    "tiny": {"width": 384, "num_heads": 6, "depth": 12},
    "small": {"width": 576, "num_heads": 12, "depth": 12},
    "base": {"width": 768, "num_heads": 12, "depth": 12},
    "large": {"width": 1024, "num_heads": 16, "depth": 24},
}
_CRATE_MAE = {**_CRATE, "giant": {"width": 2048, "num_heads": 32, "depth": 40}}
_VIT = {
    "small": {"width": 384, "num_heads": 6, "depth": 12},
    "base": {"width": 768, "num_heads": 12, "depth": 12},
    "large": {"width": 1024, "num_heads": 16, "depth": 24},
    "huge": {"width": 1280, "num_heads": 16, "depth": 32, "patch_size": 14},
}

SIZES = {
    **{f"crate_mae_{size}": {**fields, "decoder_depth": fields["depth"]} for size, fields in _CRATE_MAE.items()},
    **{f"vit_mae_{size}": {**fields, **_META_DECODER} for size, fields in _VIT.items()},
    "vit_mae_base_paper": {
        "width": 768, "num_heads": 12, "depth": 12, "decoder_depth": 8, "decoder_width": 768, "decoder_num_heads": 16,
    },
    **{f"crate_classifier_{size}": fields for size, fields in _CRATE_MAE.items()},
    **{f"vit_classifier_{size}": fields for size, fields in _VIT.items()},
    **{f"crate_{size}": fields for size, fields in _CRATE.items()},
}  # fmt: skip
