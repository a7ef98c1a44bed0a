"""What can be known before anything is compiled: settings that do not go together, data that will be missing later."""

from crate_jax.config import flatten, shown
from crate_jax.config_schema import LEAVES
from crate_jax.data.sources import open_held_out, open_source
from crate_jax.errors import UserError
from crate_jax.models.registry import model_class

# beginnings of the settings that one kind of training reads
FINE_TUNING = (
    "data.mixup", "data.cutmix", "data.label_smoothing", "optimizer.layer_decay", "finetune.", "model.pooling",
    "model.drop_path", "model.num_classes",
)  # fmt: skip
PRE_TRAINING = ("init_from", "norm_pix_loss", "evaluate_every_steps", "masking.", "objective.")


def check_pretraining(config):
    """Refuses what is not pre-trained.

    Raises:
        UserError: a classifier, or no network's name; a setting of fine-tuning only.
    """
    name = config.model.name
    if not hasattr(model_class(name), "mask_ratio"):
        raise UserError(
            f"model.name={name} is a classifier; pretrain trains masked autoencoders, such as "
            f"{name.replace('_classifier_', '_mae_') if '_classifier_' in name else 'crate_mae_base'}."
        )
    check_effect(config, FINE_TUNING, "pre-training", "finetune")


def check_effect(config, beginnings, here, there):
    """Raises UserError for a setting of this prefix that is not at its default: `here` ignores it, `there` does not."""
    for name, value in flatten(config).items():
        if name.startswith(beginnings) and value != LEAVES[name].default:
            raise UserError(f"{name}={shown(value)} has no effect on {here}, only on {there}; leave it out.")


def check_objective(config, model):
    """Raises UserError for targets of one pixel that are to be standardised."""
    if config.norm_pix_loss and model.patch_size**2 * model.channels < 2:
        raise UserError(
            "norm_pix_loss=True: a patch of one pixel and one channel has no variance to be standardised by; choose a "
            "larger model.patch_size or norm_pix_loss=False."
        )


def check_splits(config):
    """Looks for the splits that this run and its evaluations will read; nothing is decoded.

    Raises:
        UserError: a split that the data set does not have, naming the leaf.
    """
    settings = config.data
    open_source(settings.name, settings.train_split, settings.data_dir)
    try:
        open_held_out(settings)
    except UserError as error:
        raise UserError(
            f"data.validation_split={settings.validation_split}, which is evaluated later, cannot be read: {error} Set "
            f"--config.data.validation_split to a split that there is, or to a part of one, such as train[90%:], with "
            f"--config.data.train_split=train[:90%]."
        ) from error
