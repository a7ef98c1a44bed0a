"""The white-box family on 40,000 pictures of 200 objects, data that no setting was chosen on.

    python benchmarks/object_pictures.py pack debs objects.zip        # its docstring names the packages
    python benchmarks/object_pictures.py make objects.zip objects
    python benchmarks/object_pictures.py make objects.zip objects_labelled --classes=20 --train=100 --test=100 --seed=1
    crate-jax sweep --config=objects --workdir=workdirs/objects
    crate-jax compare workdirs/objects --out=workdirs/objects --baseline=vit

Question: the other tables are of crops of seventeen photographs, and the quickstart's settings were chosen there. Which
networks complete best, and is pre-training worth anything to a probe, on photographs of objects that must be told apart
in front of other backgrounds? The quickstart's settings as they are, for 64 pixels in patches of 8: 1,500 steps of 32
pictures, so each picture about once. Features are judged on 2,000 labelled pictures of 20 classes and 2,000 test ones
(all 200 classes, ten labels each, are too hard for a network of this size: 1.1 % of kNN, 0.5 being chance). Three to
eight minutes per point on one CPU core.

Answer (docs/results.md): CRATE-alpha's probe gains 7.8 points [2.1, 13.6] over its untrained self, the ViT-MAE's 2.9
[0.8, 5.1], CRATE-MAE's and the others' nothing; the order of completion is that of photographs.
"""

from crate_jax.config import load_config
from crate_jax.sweeps.points import load_sweep

LABELLED = "--config.data.data_dir=objects_labelled"
EVALUATE = (f"knn {LABELLED}", "reconstruct", f"probe {LABELLED} --shots=5")

NETWORKS = ("crate", "decoupled", "vit_small", "alpha", "vit")  # of `white_box_family`
STANDARDISED = ("crate", "alpha", "vit")  # with standardised targets as well


def get_config():
    """The config of the objects."""
    config = load_config("quickstart")
    config.measure_every_steps, config.checkpoint.every_steps = 0, config.total_steps
    config.model.image_size, config.model.patch_size = 64, 8
    config.data.name, config.data.data_dir = "image_folder", "objects"
    config.data.train_split, config.data.validation_split = "train+validation", "test"
    config.data.show_split, config.data.show_classes = "test", ()
    return config


def get_hyper():
    """The points: the family's, one seed after another."""
    family = {point.name: point.overrides for point in load_sweep("white_box_family").points}
    points = []
    for seed in range(3):
        points += [{"name": name, **family[name]} for name in (f"{network}+seed={seed}" for network in NETWORKS)]
        for name in STANDARDISED:
            points.append(
                {"name": f"{name}_standardised+seed={seed}", **family[f"{name}+seed={seed}"], "norm_pix_loss": True}
            )
    return points
