"""Every leaf of every config: its default, its type, and what it is for.

One table, so that an unknown key can be refused with the nearest known one, a type can be checked before anything
slow starts, and `crate-jax inspect` can say what a number means. A default of None together with a type reads "from the
name of the model", or "not set".
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting.

    Attributes:
        default: its value where a config says nothing.
        type: int, float, bool, str or tuple.
        doc: what it is, with its unit.
        choices: the values allowed, if they are few.
        resume: True if a run may change it when it goes on; it must not change the result.
        low, high: bounds, inclusive; None is none.
    """

    default: Any
    type: type
    doc: str
    choices: tuple | None = None
    resume: bool = False
    low: float | None = None
    high: float | None = None


LEAVES = {
    "seed": Leaf(0, int, "of parameters, data order, augmentation and masks", low=0),
    "total_steps": Leaf(None, int, "optimizer steps; wins over total_epochs", low=1),
    "total_epochs": Leaf(None, float, "passes over the training split", low=0),
    "batch_size": Leaf(128, int, "images a step, over all hosts", low=1),
    "log_every_steps": Leaf(50, int, "steps between lines of metrics.jsonl", resume=True, low=1),
    "measure_every_steps": Leaf(200, int, "steps between measurements of the layers; 0: never", resume=True, low=0),
    "measure_images": Leaf(16, int, "images of the batch that the layers are measured on", resume=True, low=1),
    "evaluate_every_steps": Leaf(
        0, int, "steps between kNN and probe of frozen features, on the validation split; 0: never", resume=True, low=0
    ),
    "profile_at_step": Leaf(None, int, "writes a profiler trace of five steps from here", resume=True, low=1),
    "norm_pix_loss": Leaf(False, bool, "targets are each patch's standardised pixels"),
    # -- the network: any of these is an override of create_model; None is what the name says
    "model.name": Leaf("crate_mae_base", str, "crate_mae_base, vit_mae_base, ...: see crate-jax inspect"),
    "model.image_size": Leaf(None, int, "pixels, height and width", low=1),
    "model.patch_size": Leaf(None, int, "pixels; divides image_size", low=1),
    "model.channels": Leaf(None, int, "of the image", low=1),
    "model.width": Leaf(None, int, "D, the length of a token", low=4),
    "model.depth": Leaf(None, int, "encoder layers", low=1),
    "model.decoder_depth": Leaf(None, int, "decoder layers", low=0),
    "model.num_heads": Leaf(None, int, "K subspaces; divides width", low=1),
    "model.decoder_width": Leaf(None, int, "ViT-MAE only: token length in the decoder", low=4),
    "model.decoder_num_heads": Leaf(None, int, "ViT-MAE only", low=1),
    "model.eta": Leaf(None, float, "step size of ISTA", low=0),
    "model.lambda_": Leaf(None, float, "sparsity weight of ISTA", low=0),
    "model.mask_mode": Leaf(None, str, "what the encoder sees of a removed patch", choices=("token", "zero", "drop")),
    "model.mask_ratio": Leaf(None, float, "fraction of patches removed, in (0, 1)"),
    "model.output_projection": Leaf(None, str, "of MSSA: a matrix of its own, or U", choices=("learned", "tied")),
    "model.skip": Leaf(None, str, "what the compression step adds to", choices=("input", "normed")),
    "model.attention_scale": Leaf(None, str, "of MSSA: P^-1/2, or P/(N eps^2)", choices=("official", "paper")),
    "model.kappa": Leaf(None, float, "step size of compression, attention_scale='paper'", low=0),
    "model.epsilon": Leaf(None, float, "eps of the coding rate, attention_scale='paper'", low=0),
    "model.positions": Leaf(None, str, "added once, or taken off again at the end", choices=("added", "subtracted")),
    "model.table_image_size": Leaf(None, int, "pixels the position table was made for; None: image_size", low=1),
    "model.learned_positions": Leaf(None, bool, "classifiers only: the position table is trained"),
    "model.dtype": Leaf(None, str, "of the computation; parameters stay float32", choices=("float32", "bfloat16")),
    "model.scan_layers": Leaf(None, bool, "one compiled layer, looped over", resume=True),
    "model.remat": Leaf(
        None, str, "what the backward pass recomputes", resume=True, choices=("none", "dots", "full", "names")
    ),
    "model.attention_kernel": Leaf(
        None,
        str,
        "how MSSA is computed; the result is the same",
        resume=True,
        choices=("auto", "xla", "recompute", "pallas"),
    ),
    "model.product_kernel": Leaf(
        None,
        str,
        "how norms, the products after them and ISTA are computed; the result is the same",
        resume=True,
        choices=("auto", "xla", "pallas"),
    ),
    "model.num_classes": Leaf(None, int, "classifiers only; None: as the data set has", low=1),
    "model.drop_path": Leaf(None, float, "classifiers only: stochastic depth of the last layer", low=0, high=1),
    "model.pooling": Leaf(None, str, "classifiers only: what the head reads", choices=("cls", "mean")),
    # -- data
    "data.name": Leaf("imagenet2012", str, "a TFDS name, embedded_photographs, embedded_digits, or image_folder"),
    "data.data_dir": Leaf(None, str, "where the data set lies; None: TFDS's own place", resume=True),
    "data.train_split": Leaf("train", str, "TFDS slicing syntax is understood"),
    "data.validation_split": Leaf("validation", str, "held out; reconstructed and evaluated, never trained on"),
    "data.show_split": Leaf(
        None, str, "pictures that figures complete tile by tile, beside held-out images", resume=True
    ),
    "data.show_classes": Leaf((), tuple, "which of them: the first of each of these classes", resume=True),
    "data.augmentation": Leaf(
        "mae",
        str,
        "of training images: MAE's crop, small affine maps, or a centre crop",
        choices=("mae", "affine", "none"),
    ),
    "data.crop_scale": Leaf((0.2, 1.0), tuple, "area of the random crop, as fractions of the image"),
    "data.crop_ratio": Leaf((3 / 4, 4 / 3), tuple, "width over height of the random crop"),
    "data.flip": Leaf(True, bool, "half of the training images are mirrored"),
    "data.interpolation": Leaf("bicubic", str, "of every resize", choices=("bilinear", "bicubic")),
    "data.resize": Leaf(None, int, "shorter side before the centre crop; None: image_size * 256 / 224", low=1),
    "data.randaugment": Leaf(0, int, "operations drawn for each training image (fine-tuning: 2)", low=0),
    "data.randaugment_magnitude": Leaf(9.0, float, "of each operation, on a scale to 10", low=0, high=10),
    "data.randaugment_std": Leaf(0.5, float, "standard deviation of the magnitude", low=0),
    "data.erasing": Leaf(0.0, float, "chance that a rectangle becomes noise (fine-tuning: 0.25)", low=0, high=1),
    "data.mixup": Leaf(0.0, float, "alpha of mixup's weight; 0: off (fine-tuning: 0.8)", low=0),
    "data.cutmix": Leaf(0.0, float, "alpha of CutMix's weight; 0: off (fine-tuning: 1)", low=0),
    "data.label_smoothing": Leaf(0.0, float, "part of a target spread over all classes", low=0, high=1),
    "data.mean": Leaf((0.485, 0.456, 0.406), tuple, "taken off each channel, in units of 255"),
    "data.std": Leaf((0.229, 0.224, 0.225), tuple, "each channel is divided by it, in units of 255"),
    "data.max_corrupt_fraction": Leaf(0.1, float, "of the examples read; more is an error", low=0, high=1),
    "data.num_workers": Leaf(None, int, "that read and augment at once; None: by the machine", resume=True, low=0),
    "data.worker_processes": Leaf(None, bool, "workers are processes; None: if there are more than 8", resume=True),
    "data.prefetch": Leaf(2, int, "batches kept ready on the device", resume=True, low=1),
    # -- optimizer
    "optimizer.name": Leaf("adamw", str, "", choices=("adamw", "lion", "sgd", "lars")),
    "optimizer.learning_rate": Leaf(1.5e-4, float, "peak; MAE's rule: base rate * batch_size / 256", low=0),
    "optimizer.final_learning_rate": Leaf(0.0, float, "at the last step", low=0),
    "optimizer.warmup_steps": Leaf(None, int, "linear from 0; wins over warmup_epochs", low=0),
    "optimizer.warmup_epochs": Leaf(None, float, "linear from 0", low=0),
    "optimizer.weight_decay": Leaf(0.05, float, "decoupled; not on biases and norms", low=0),
    "optimizer.b1": Leaf(0.9, float, "", low=0, high=1),
    "optimizer.b2": Leaf(0.95, float, "", low=0, high=1),
    "optimizer.clip_norm": Leaf(None, float, "of the global gradient; None: not clipped", low=0),
    "optimizer.moments_dtype": Leaf("float32", str, "of Adam's first moment", choices=("float32", "bfloat16")),
    "optimizer.accumulate": Leaf(1, int, "micro-batches a step; the result is that of the whole batch", low=1),
    "optimizer.ema": Leaf(None, float, "decay of a running mean of the parameters; None: no mean", low=0, high=1),
    "optimizer.layer_decay": Leaf(None, float, "fine-tuning: rate of a layer over that of the next", low=0, high=1),
    # -- fine-tuning: what it begins with, and on how much
    "finetune.source": Leaf(None, str, "workdir or file of the pre-trained encoder; None: from scratch"),
    "finetune.identity": Leaf(None, str, "of its parameters, so that a run goes on with the same ones only"),
    "finetune.labels_per_class": Leaf(None, int, "examples of each class that are trained on; None: all", low=1),
    "finetune.draw": Leaf(0, int, "which examples those are", low=0),
    "finetune.head_only": Leaf(False, bool, "the encoder stays, its features are batch-normalised: MAE's linear probe"),
    # -- checkpoints
    "checkpoint.every_steps": Leaf(1000, int, "", resume=True, low=1),
    "checkpoint.keep": Leaf(2, int, "newest checkpoints kept", resume=True, low=1),
    "checkpoint.keep_every_steps": Leaf(None, int, "and every one at a multiple of this, for good", resume=True, low=1),
    # -- devices
    "mesh.data": Leaf(-1, int, "ways the batch is split; -1: whatever is left", resume=True, low=-1),
    "mesh.fsdp": Leaf(
        1, int, "ways the parameters are split, the batch too; -1: whatever is left", resume=True, low=-1
    ),
    "mesh.tensor": Leaf(1, int, "ways a layer's heads and atoms are split", resume=True, low=-1),
    "mesh.dcn_data": Leaf(
        1, int, "slices joined by the data-centre network, over which the batch is split", resume=True, low=1
    ),
    "mesh.rules": Leaf((), tuple, "(logical axis, mesh axis) pairs in place of distributed.sharding's", resume=True),
    "distributed.preemption_exit_code": Leaf(
        143, int, "of a run that SIGTERM stopped; schedulers take it for not finished", resume=True, low=0, high=255
    ),
    "distributed.stall_seconds": Leaf(
        1800.0, float, "without a step before the run ends with every thread's stack; 0: never", resume=True, low=0
    ),
    "distributed.lost_host_seconds": Leaf(
        100, int, "until a host that says nothing counts as lost", resume=True, low=1
    ),
}
