"""The named networks: a family (frame and layers) and a size each.

crate_mae_*          Ma-Lab-Berkeley/CRATE, model/crate_ae: encoder and decoder of one width and depth
crate_alpha_mae_*    the same frame with CRATE-alpha's layers (arXiv 2405.20299), in the encoder and mirrored
tost_mae_*           with ToST's token statistics (arXiv 2412.17810) and ISTA
cbsa_mae_*           with CBSA's attention (arXiv 2509.16875) and ISTA
aot_mae_*            attention only: z + MSSA(LN(z)) and nothing else (AoT, arXiv 2506.03790)
crate_convex_mae_*   CRATE-MAE with the paper's convex step z + kappa (f - z), kappa learned, output U^T: lowers R^c
vit_mae_*            He et al. 2022 with Meta's decoder, 8 layers of 512
vit_mae_base_paper   the 143.8 M of the CRATE-MAE paper's table: a decoder of 8 layers of 768
vit_mae_small        47.6 M in that table; width 384 with Meta's decoder fits (inferred)
*_classifier_*       the encoders of these with a head
crate_*, crate_alpha_*    the supervised networks of their official code
tost_*, cbsa_*       supervised networks in CRATE's frame, in their published widths and depths

"giant" is ours: a CRATE-MAE of a billion parameters, subspaces of 64 as in base and large. ToST's published networks
have XCiT's convolutional embedding and class attention, so ours have other parameter counts at the same width.
"""

from typing import Any

from crate_jax.models.classifier import Crate, CrateAlpha, CrateClassifier, VitClassifier
from crate_jax.models.masked_autoencoder import CrateMae, VitMae

_META_DECODER = {"decoder_depth": 8, "decoder_width": 512, "decoder_num_heads": 16}

_CRATE = {
    "tiny": {"width": 384, "num_heads": 6, "depth": 12},
    "small": {"width": 576, "num_heads": 12, "depth": 12},
    "base": {"width": 768, "num_heads": 12, "depth": 12},
    "large": {"width": 1024, "num_heads": 16, "depth": 24},
}
_CRATE_MAE = {**_CRATE, "giant": {"width": 2048, "num_heads": 32, "depth": 40}}
_ALPHA = {size: _CRATE[size] for size in ("small", "base", "large")}
_TOST = {
    "tiny": {"width": 192, "num_heads": 4, "depth": 12},
    "small": {"width": 384, "num_heads": 8, "depth": 12},
    "medium": {"width": 512, "num_heads": 8, "depth": 24, "layer_scale": 1e-5},
}
_VIT = {
    "small": {"width": 384, "num_heads": 6, "depth": 12},
    "base": {"width": 768, "num_heads": 12, "depth": 12},
    "large": {"width": 1024, "num_heads": 16, "depth": 24},
    "huge": {"width": 1280, "num_heads": 16, "depth": 32, "patch_size": 14},
}

ALPHA_LAYER = {
    "sparsification": "overcomplete", "sparsification_residual": True, "eta": 0.1, "lambda_": 0.1,
    "output_bias": False, "layer_norm_epsilon": 1e-6,
}  # fmt: skip
_TOST_LAYER = {"compression": "tssa", "layer_scale": 1.0}
_CBSA_LAYER = {"compression": "cbsa"}
_CONVEX_LAYER = {"output_projection": "tied", "compression_step": "convex", "kappa": 0.5, "learned_kappa": True}
_AOT_LAYER = {"sparsification": "none"}
_TOST_MLP = {"sparsification": "mlp", "sparsification_residual": True}

# prefix of the name: (class, settings of every size, sizes); an autoencoder's decoder is as deep as its encoder
FAMILIES: dict[str, tuple[Any, dict, dict]] = {
    "crate_mae": (CrateMae, {}, _CRATE_MAE),
    "crate_alpha_mae": (CrateMae, {**ALPHA_LAYER, "decoder_map": "overcomplete"}, _ALPHA),
    "tost_mae": (CrateMae, {**_TOST_LAYER, "mask_mode": "drop"}, _CRATE),
    "cbsa_mae": (CrateMae, _CBSA_LAYER, _CRATE),
    "aot_mae": (CrateMae, _AOT_LAYER, _CRATE),
    "crate_convex_mae": (CrateMae, _CONVEX_LAYER, _CRATE),
    "vit_mae": (VitMae, _META_DECODER, {**_VIT, "base_paper": {**_VIT["base"], "decoder_width": 768}}),
    "crate_classifier": (CrateClassifier, {}, _CRATE_MAE),
    "crate_alpha_classifier": (CrateClassifier, ALPHA_LAYER, _ALPHA),
    "tost_classifier": (CrateClassifier, _TOST_LAYER, _CRATE),
    "cbsa_classifier": (CrateClassifier, _CBSA_LAYER, _CRATE),
    "aot_classifier": (CrateClassifier, _AOT_LAYER, _CRATE),
    "crate_convex_classifier": (CrateClassifier, _CONVEX_LAYER, _CRATE),
    "vit_classifier": (VitClassifier, {}, _VIT),
    "crate": (Crate, {}, _CRATE),
    "crate_alpha": (CrateAlpha, ALPHA_LAYER, _ALPHA),
    "tost": (Crate, {**_TOST_LAYER, **_TOST_MLP}, _TOST),
    "cbsa": (Crate, {**_CBSA_LAYER, "lambda_": 0.1}, _CRATE),
}


def _settings(cls, shared, size):
    depth = {"decoder_depth": size["depth"]} if cls is CrateMae else {}
    return {**shared, **depth, **size}


# name: (class, settings)
NETWORKS = {
    f"{family}_{size}": (cls, _settings(cls, shared, fields))
    for family, (cls, shared, sizes) in FAMILIES.items()
    for size, fields in sizes.items()
}
