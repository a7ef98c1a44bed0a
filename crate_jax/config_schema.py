"""The schema: every leaf of every config, with its type, default, range, unit and meaning, in one table.

Whatever speaks of settings reads this table: an unknown key is refused with the nearest known one, and a value outside
its range before anything slow starts; `crate-jax inspect --config=NAME` and the documentation print it. A default of
None reads "from the name of the model" below `model.`, elsewhere "not set".
"""

from crate_jax.config_leaf import Leaf

STEPS = 2**31 - 1  # a step's number is an int32 on the device
WORD = 2**32 - 1  # the largest seed of JAX's and NumPy's generators


def _interval(default, doc, low=1):
    """So many steps between two events; what a run does at every step does not depend on it."""
    return Leaf(default, int, doc, resume=True, low=low, high=STEPS)


def _devices(default, doc):
    """Length of a mesh axis."""
    return Leaf(default, int, f"devices that {doc}; -1: all that are left", resume=True, low=-1, high=2**20)


LEAVES = {
    "seed": Leaf(0, int, "seed of parameters, data order, augmentation and masks", low=0, high=WORD),
    "total_steps": Leaf(
        None, int, "optimizer steps; wins over total_epochs given in the same place", low=1, high=STEPS
    ),
    "total_epochs": Leaf(None, float, "passes over the training split", above=0, high=1e6),
    "init_from": Leaf(
        None, str, "workdir or checkpoint that pre-training begins with: its parameters, nothing else of it"
    ),
    "batch_size": Leaf(128, int, "images per step, over all hosts", low=1, high=2**24),
    "log_every_steps": _interval(50, "steps between lines of metrics.jsonl"),
    "measure_every_steps": _interval(200, "steps between measurements of the layers; 0: never", low=0),
    "measure_images": Leaf(
        16, int, "images of the batch that the layers are measured on", resume=True, low=1, high=2**24
    ),
    "evaluate_every_steps": _interval(
        0, "steps between loss, kNN and probe of frozen features on the validation split; 0: never", low=0
    ),
    "picture_every_steps": _interval(
        1000, "steps between pictures in the logs: completed validation images, curves over the layers; 0: never", low=0
    ),
    "logging": Leaf(
        ("tensorboard",),
        tuple,
        "where metrics and pictures go beside metrics.jsonl; () is nowhere, wandb is Weights & Biases",
        resume=True,
        items=str,
        choices=("tensorboard", "wandb"),
    ),
    "profile_at_step": Leaf(
        None, int, "step from which a profiler trace of five steps is written", resume=True, low=1, high=STEPS
    ),
    "norm_pix_loss": Leaf(False, bool, "targets are each patch's standardised pixels"),
    # -- the network: any of these is an override of create_model; None is what the name says
    "model.name": Leaf("crate_mae_base", str, "named network, such as crate_mae_base or vit_mae_large"),
    "model.image_size": Leaf(None, int, "side of the images, or HEIGHTxWIDTH, pixels", low=1, high=8192, pair=True),
    "model.patch_size": Leaf(None, int, "side of a patch, pixels; divides image_size", low=1, high=1024),
    "model.channels": Leaf(None, int, "channels of the images: 1 grey, 3 RGB", choices=(1, 3)),
    "model.width": Leaf(None, int, "D, the length of a token; a multiple of 4", low=4, high=65536),
    "model.depth": Leaf(None, int, "encoder layers", low=1, high=1024),
    "model.decoder_depth": Leaf(None, int, "decoder layers", low=0, high=1024),
    "model.num_heads": Leaf(None, int, "K, the number of subspaces (attention heads); divides width", low=1, high=4096),
    "model.decoder_width": Leaf(None, int, "ViT-MAE only: token length in the decoder", low=4, high=65536),
    "model.decoder_num_heads": Leaf(None, int, "ViT-MAE only: heads in the decoder", low=1, high=4096),
    "model.eta": Leaf(None, float, "eta, the step size of ISTA", low=0, high=1000),
    "model.lambda_": Leaf(None, float, "lambda, the sparsity weight of ISTA", low=0, high=1e6),
    "model.mask_mode": Leaf(None, str, "what the encoder sees of a removed patch", choices=("token", "zero", "drop")),
    "model.mask_ratio": Leaf(None, float, "fraction of the patches that are removed", above=0, below=1),
    "model.compression": Leaf(
        None,
        str,
        "attention of the compression step (models.layers)",
        choices=("mssa", "tssa", "cbsa", "gradient", "neumann"),
    ),
    "model.output_projection": Leaf(
        None,
        str,
        "output projection of the attention: a matrix of its own, U^T, U, a fixed random matrix, or none",
        choices=("learned", "tied", "transposed", "fixed", "identity"),
    ),
    "model.output_bias": Leaf(None, bool, "a learned output projection has a bias"),
    "model.compression_step": Leaf(
        None, str, "z + f(LN z), z - f(LN z), or z + kappa (f(LN z) - z)", choices=("add", "subtract", "convex")
    ),
    "model.skip": Leaf(
        None,
        str,
        "what the compression step starts from: z, or LN z (the paper's diagrams)",
        choices=("input", "normed"),
    ),
    "model.attention_scale": Leaf(
        None,
        str,
        "logits times P^-1/2 (official), or as they are and a convex step of length kappa P/(N eps^2) (paper)",
        choices=("official", "paper"),
    ),
    "model.kappa": Leaf(
        None,
        float,
        "step size of a convex, paper or gradient compression step; a gradient step descends below 2",
        low=0,
        high=1000,
    ),
    "model.learned_kappa": Leaf(None, bool, "kappa is the initial value of a parameter of each layer"),
    "model.epsilon": Leaf(None, float, "eps of the coding rate, in paper and gradient steps", low=1e-3, high=1000),
    "model.layer_scale": Leaf(
        None, float, "initial factor per channel of the compression branch; None: no factor", above=0, high=1000
    ),
    "model.pool_size": Leaf(None, int, "CBSA: representatives along each side", low=1, high=256),
    "model.pool_class_token": Leaf(
        None, str, "CBSA: pool the patches (first), or the first N - 1 tokens (last)", choices=("first", "last")
    ),
    "model.sparsification": Leaf(
        None, str, "sparsification step (models.layers)", choices=("ista", "overcomplete", "mlp", "none")
    ),
    "model.expansion": Leaf(None, int, "atoms per width of an overcomplete dictionary (or MLP)", low=1, high=64),
    "model.readout": Leaf(
        None, str, "read-out of an overcomplete dictionary: its own, or the dictionary", choices=("free", "tied")
    ),
    "model.sparsification_steps": Leaf(None, int, "ISTA steps on an overcomplete dictionary", low=1, high=64),
    "model.sparsification_residual": Leaf(None, bool, "z + step(LN z) in place of step(LN z)"),
    "model.decoder_map": Leaf(
        None,
        str,
        "how the decoder reverses sparsification: a matrix, or the encoder's overcomplete step",
        choices=("linear", "overcomplete"),
    ),
    "model.layer_norm_epsilon": Leaf(None, float, "epsilon of the layers' norms", above=0, high=1),
    "model.positions": Leaf(
        None, str, "positions are added once, or subtracted again at the output", choices=("added", "subtracted")
    ),
    "model.table_image_size": Leaf(
        None, int, "image size of the position table, pixels; None: image_size", low=1, high=8192, pair=True
    ),
    "model.learned_positions": Leaf(None, bool, "classifiers only: the position table is trained"),
    "model.dtype": Leaf(
        None, str, "dtype of the computation; parameters stay float32", choices=("float32", "bfloat16")
    ),
    "model.scan_layers": Leaf(None, bool, "one compiled layer in a loop over the depth", resume=True),
    "model.remat": Leaf(
        None,
        str,
        "what the backward pass recomputes; with names or full, layers are scanned",
        resume=True,
        choices=("none", "names", "full"),
    ),
    "model.attention_kernel": Leaf(
        None,
        str,
        "how attention is computed; the result is the same",
        resume=True,
        choices=("auto", "xla", "recompute", "pallas", "cudnn"),
    ),
    "model.product_kernel": Leaf(
        None,
        str,
        "how norms, the products after them and ISTA are computed; the result is the same",
        resume=True,
        choices=("auto", "xla", "pallas"),
    ),
    "model.num_classes": Leaf(None, int, "classifiers only; None: as the data set has", low=2, high=10**7),
    "model.drop_path": Leaf(None, float, "classifiers only: stochastic depth, rate of the last layer", low=0, below=1),
    "model.pooling": Leaf(None, str, "classifiers only: what the head reads", choices=("cls", "mean")),
    # -- masks of pre-training
    "masking.kind": Leaf(
        "random",
        str,
        "which patches are removed: uniform, in blocks, or a regular grid",
        choices=("random", "block", "grid"),
    ),
    "masking.ratio": Leaf(
        None,
        tuple,
        "range that each step's mask ratio is drawn from; None: model.mask_ratio",
        above=0,
        below=1,
        items=float,
        length=(2,),
        ascending=True,
    ),
    "masking.ratio_levels": Leaf(
        4, int, "evenly spaced ratios within masking.ratio, each compiled once", low=2, high=16
    ),
    "masking.per": Leaf("image", str, "one mask per image, or one for all images of a step", choices=("image", "step")),
    # -- what pre-training minimises beside the error of removed patches
    "objective.rate_weight": Leaf(
        0.0, float, "gamma: weight of the coding rate of a batch's features, taken from the loss", low=0, high=1e6
    ),
    "objective.rate_epsilon": Leaf(
        0.5, float, "eps of that coding rate; features have length one", low=0.001, high=1000
    ),
    # -- data
    "data.name": Leaf("imagenet2012", str, "a TFDS name, embedded_photographs, embedded_digits, or image_folder"),
    "data.data_dir": Leaf(
        None, str, "folder of pictures, or TFDS's root folder; None: TFDS's default folder", resume=True
    ),
    "data.stage_dir": Leaf(
        None,
        str,
        "fast local folder that each host copies the training split to at start, such as /dev/shm",
        resume=True,
    ),
    "data.train_split": Leaf("train", str, "split that is trained on, with TFDS slicing syntax"),
    "data.validation_split": Leaf(
        "validation", str, "held-out split: reconstructed and evaluated, never trained on", resume=True
    ),
    "data.show_split": Leaf(
        None, str, "split whose pictures figures complete tile by tile, beside held-out images", resume=True
    ),
    "data.show_classes": Leaf(
        (), tuple, "classes of show_split that are shown: the first picture of each", resume=True, items=str
    ),
    "data.augmentation": Leaf(
        "mae",
        str,
        "augmentation of training images: MAE's random crop, small affine maps, or a centre crop",
        choices=("mae", "affine", "none"),
    ),
    "data.crop_scale": Leaf(
        (0.2, 1.0),
        tuple,
        "least and greatest area of the random crop, as fractions of the image",
        above=0,
        high=1,
        items=float,
        length=(2,),
        ascending=True,
    ),
    "data.crop_ratio": Leaf(
        (3 / 4, 4 / 3),
        tuple,
        "least and greatest width over height of the random crop",
        low=0.01,
        high=100,
        items=float,
        length=(2,),
        ascending=True,
    ),
    "data.flip": Leaf(True, bool, "half of the training images are mirrored"),
    "data.interpolation": Leaf("bicubic", str, "interpolation of every resize", choices=("bilinear", "bicubic")),
    "data.resize": Leaf(
        None, int, "shorter side before the centre crop, pixels; None: image_size * 256 / 224", low=1, high=16384
    ),
    "data.randaugment": Leaf(
        0, int, "RandAugment operations drawn per training image (fine-tuning: 2)", low=0, high=100
    ),
    "data.randaugment_magnitude": Leaf(9.0, float, "magnitude of each operation, on a scale to 10", low=0, high=10),
    "data.randaugment_std": Leaf(0.5, float, "standard deviation of the magnitude", low=0, high=10),
    "data.erasing": Leaf(0.0, float, "chance that a rectangle becomes noise (fine-tuning: 0.25)", low=0, high=1),
    "data.mixup": Leaf(0.0, float, "alpha of mixup's weight; 0: off (fine-tuning: 0.8)", low=0, high=1000),
    "data.cutmix": Leaf(0.0, float, "alpha of CutMix's weight; 0: off (fine-tuning: 1)", low=0, high=1000),
    "data.label_smoothing": Leaf(
        0.0, float, "fraction of a target that is shared evenly by all classes", low=0, below=1
    ),
    "data.mean": Leaf(
        (0.485, 0.456, 0.406),
        tuple,
        "mean of the normalisation, per channel, pixels in [0, 1]",
        low=0,
        high=1,
        items=float,
        length=(1, 3),
    ),
    "data.std": Leaf(
        (0.229, 0.224, 0.225),
        tuple,
        "standard deviation of the normalisation, per channel, pixels in [0, 1]",
        low=1e-3,
        high=1000,
        items=float,
        length=(1, 3),
    ),
    "data.max_corrupt_fraction": Leaf(
        0.1, float, "corrupt fraction of the examples read that ends the run", low=0, high=1
    ),
    "data.max_pixels": Leaf(
        2**29, int, "of a picture when it is decoded, 4 bytes each; a larger one is corrupt", low=1
    ),
    "data.num_workers": Leaf(
        None,
        int,
        "threads that read and augment images; None: as many as the machine has cores",
        resume=True,
        low=0,
        high=1024,
    ),
    "data.worker_processes": Leaf(
        None,
        int,
        "processes that share those threads; 0: none but this one; None: one per 8 threads, if there are more",
        resume=True,
        low=0,
        high=1024,
    ),
    "data.prefetch": Leaf(2, int, "batches ready on the device ahead of the step", resume=True, low=1, high=64),
    # -- optimizer
    "optimizer.name": Leaf("adamw", str, "optimizer", choices=("adamw", "muon", "lion", "sgd", "lars")),
    "optimizer.learning_rate": Leaf(
        1.5e-4, float, "peak learning rate; MAE's rule: base rate * batch_size / 256", low=0, high=1000
    ),
    "optimizer.schedule": Leaf(
        "cosine",
        str,
        "after the warm-up: a cosine to the last step, or constant, which total_steps can be extended under",
        choices=("cosine", "constant"),
    ),
    "optimizer.final_learning_rate": Leaf(0.0, float, "learning rate at the last step of a cosine", low=0, high=1000),
    "optimizer.warmup_steps": Leaf(
        None, int, "steps of linear warm-up from 0; wins over warmup_epochs given in the same place", low=0, high=STEPS
    ),
    "optimizer.warmup_epochs": Leaf(None, float, "epochs of linear warm-up from 0", low=0, high=1e6),
    "optimizer.weight_decay": Leaf(0.05, float, "decoupled weight decay; not on biases and norms", low=0, high=100),
    "optimizer.b1": Leaf(0.9, float, "decay of the first moment; of SGD and LARS the momentum", low=0, below=1),
    "optimizer.b2": Leaf(0.95, float, "decay of the second moment (AdamW, Lion); momentum of Muon", low=0, below=1),
    "optimizer.clip_norm": Leaf(
        None, float, "largest global norm of the gradient; None: not clipped", above=0, high=1e9
    ),
    "optimizer.moments_dtype": Leaf(
        "float32", str, "dtype of the first moment (AdamW, Lion, Muon)", choices=("float32", "bfloat16")
    ),
    "optimizer.accumulate": Leaf(
        1, int, "micro-batches per step; the result is that of the whole batch", low=1, high=2**20
    ),
    "optimizer.ema": Leaf(None, float, "decay of the parameters' moving average; None: none is kept", low=0, below=1),
    "optimizer.layer_decay": Leaf(
        None, float, "fine-tuning: learning rate of a layer over that of the next", above=0, high=1
    ),
    # -- fine-tuning: what it begins with, and on how much
    "finetune.source": Leaf(
        None, str, "workdir or file of the pre-trained encoder, which may move; None: from scratch", resume=True
    ),
    "finetune.identity": Leaf(None, str, "hash of its parameters; a run resumes with the same ones only"),
    "finetune.labels_per_class": Leaf(None, int, "training examples per class; None: all there are", low=1, high=10**9),
    "finetune.draw": Leaf(0, int, "seed of the draw of those examples", low=0, high=WORD),
    "finetune.head_only": Leaf(
        False, bool, "the encoder is frozen and its features are batch-normalised: MAE's linear probe"
    ),
    # -- checkpoints
    "checkpoint.every_steps": _interval(1000, "steps between checkpoints"),
    "checkpoint.every_minutes": Leaf(
        10.0,
        float,
        "minutes between checkpoints, beside those by steps; 0: by steps only",
        resume=True,
        low=0,
        high=1e6,
    ),
    "checkpoint.keep": Leaf(2, int, "newest checkpoints that are kept", resume=True, low=1, high=STEPS),
    "checkpoint.keep_every_steps": Leaf(
        None, int, "checkpoints at a multiple of this step are never deleted", resume=True, low=1, high=STEPS
    ),
    # -- devices
    "mesh.data": _devices(-1, "the batch is sharded over"),
    "mesh.fsdp": _devices(1, "the parameters are sharded over, the batch too"),
    "mesh.tensor": _devices(1, "a layer's heads and atoms are sharded over"),
    "mesh.dcn_data": Leaf(
        None,
        int,
        "slices joined by the data-centre network, over which the batch is sharded; None: as the devices are",
        resume=True,
        low=1,
        high=2**20,
    ),
    "mesh.rules": Leaf(
        (), tuple, "(logical axis, mesh axis) pairs that replace those of distributed.sharding", resume=True
    ),
    "distributed.preemption_exit_code": Leaf(
        143, int, "exit code of a preempted run, which launchers retry", resume=True, low=1, high=255
    ),
    "distributed.stall_seconds": Leaf(
        1800.0,
        float,
        "seconds without a step before the run ends with every thread's stack; 0: never",
        resume=True,
        low=0,
        high=1e8,
    ),
    "distributed.join_seconds": Leaf(
        300, int, "seconds within which all hosts of a run have to start", resume=True, low=1, high=86400
    ),
    "distributed.lost_host_seconds": Leaf(
        100, int, "seconds of silence after which a host counts as lost", resume=True, low=1, high=10**6
    ),
}
