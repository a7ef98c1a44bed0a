"""Faults of a network, as sentences, from the measurements of its layers.

Checked every few hundred steps of pre-training, because the loss does not show them: it can fall while a layer dies,
or while the features become worse than they were at the start.
"""

import numpy as np

DEAD = 0.002  # fraction of entries that ISTA leaves
ALIKE = 0.999  # mean cosine between tokens; 0.98 occurs in healthy last layers, whose mean token is long
ONE_TOKEN = 0.5  # fraction of all attention
COINCIDE = 0.9  # of two subspaces, where 1 is the same subspace
RANK_LEFT = 0.7  # of the highest feature rank of any layer


def alarms(measurements, *, earlier=None):
    """Sentences, one for each thing that is wrong; none if all is well.

    Args:
        measurements: what `measure_layers` returned (arrays LxB, or L), and `loss` if there is one. Keys that are not
            there are not looked at.
        earlier: the same from an earlier step of the run (the first measured one is a good choice). With it, features
            that get worse while the loss falls are reported too.

    Returns:
        A list of strings.
    """
    by_layer = {key: _by_layer(value) for key, value in measurements.items() if key != "loss"}
    found = []
    for layer in range(max((len(value) for value in by_layer.values()), default=0)):
        found += _of_layer(layer, {key: float(value[layer]) for key, value in by_layer.items()})
    if earlier is not None:
        before = {key: _by_layer(value) for key, value in earlier.items() if key != "loss"}
        found += _since(before, by_layer, _loss(earlier), _loss(measurements))
    return found


def _by_layer(value):
    value = np.asarray(value, np.float64)
    return value.reshape(value.shape[0], -1).mean(1)


def _loss(measurements):
    return float(np.asarray(measurements["loss"])) if "loss" in measurements else None


def _of_layer(layer, value):
    where = f"encoder layer {layer}"
    broken = [key for key, number in value.items() if not np.isfinite(number)]
    if broken:
        return [f"{where}: {', '.join(broken)} is not a finite number; the run has diverged (try half the rate)."]
    found = []
    if value.get("nonzero", 1.0) < DEAD:
        found.append(
            f"{where} is dead: {100 * value['nonzero']:.2f} % of its entries are not zero after ISTA, so almost "
            f"nothing passes. Try a lower learning rate, a longer warm-up or a smaller model.lambda_."
        )
    elif value.get("token_similarity", 0.0) > ALIKE:
        found.append(
            f"{where} makes all tokens alike (mean cosine {value['token_similarity']:.3f}): the differences between "
            f"patches are lost there."
        )
    if value.get("attention_peak", 0.0) > ONE_TOKEN:
        found.append(
            f"{where}: attention has collapsed: one token receives {100 * value['attention_peak']:.0f} % of the weight "
            f"from an average query."
        )
    if value.get("subspace_overlap", 0.0) > COINCIDE:
        found.append(
            f"{where}: two of its subspaces coincide (overlap {100 * value['subspace_overlap']:.0f} %), so two heads "
            f"compute the same."
        )
    return found


def _since(before, now, loss_before, loss_now):
    """Features that became worse while the loss fell, by the highest feature rank of any layer."""
    if loss_before is None or loss_now is None or not loss_now < loss_before:
        return []
    fell = f"while the loss fell from {loss_before:.3g} to {loss_now:.3g}"
    if "feature_rank" not in before or "feature_rank" not in now:
        return []
    was, now_is = before["feature_rank"].max(), now["feature_rank"].max()
    if now_is >= RANK_LEFT * was:
        return []
    return [
        f"features get worse {fell}: the highest feature rank of a layer (effective number of features) is now "
        f"{now_is:.1f}, it was {was:.1f}."
    ]
