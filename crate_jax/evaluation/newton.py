"""Newton's method for logistic regression, on folds and draws at once: the program of `solver`.

The coordinates of each class are divided by the square root of its curvature c * eigenvalue + 1 / (C M), c = mean_n
p_n (1 - p_n) at the start. Newton's equations are solved roughly, by conjugate gradients, and steps are halved until
the objective descends. A step takes two products with x, and two for each of its conjugate gradients.

D designs, F folds, K classes, N rows, M of them in a chunk, R coordinates; P of them with the bias. In products with x
the folds are further classes, so that x is read once for all; everywhere else the last axis is the long one, rows or
coordinates, as a CPU's vectors and XLA's sums want it.

Nothing but x, labels and weights grows with N: logits are those of a chunk, sums are added chunk by chunk.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

RESIDUAL, MAX_PRODUCTS = 0.25, 40  # Newton's equations are solved to this share, in at most so many products


def newton(problems, point_DxFxKxP, C_D, tolerance, max_iterations, rows):
    """The entries of `solver.Solutions`: all problems together, each at rest once it has converged.

    Args:
        problems: `solver.Problems`.
        point_DxFxKxP: where to begin, in the designs' bases; P = R + 1, the bias is the last number.
        C_D: inverse regularisation of each design.
        tolerance, max_iterations: of `solver.solve`.
        rows: whose logits are in memory at once, at most those that there are; static.
    """
    sums = _Sums(problems, point_DxFxKxP.shape[2], rows)
    objective = _scaled(sums, problems.spectrum_DxR, point_DxFxKxP, C_D)

    def moving(known, taken_DxF):
        return (known.largest_DxF > tolerance) & (taken_DxF < max_iterations)

    def step(state):
        known, taken_DxF = state
        moves_DxF = moving(*state)
        downhill_DxFxKxP = -known.gradient_DxFxKxP * moves_DxF[..., None, None]
        way_DxFxKxP = _conjugate_gradients(functools.partial(objective.hessian_product, known), downhill_DxFxKxP)
        return _shortened(objective.at, known, way_DxFxKxP), taken_DxF + moves_DxF

    start = objective.at(point_DxFxKxP / objective.scale_DxFxKxP), jnp.zeros(sums.total_DxF.shape, int)
    found, taken_DxF = jax.lax.while_loop(lambda state: jnp.any(moving(*state)), step, start)
    point_DxFxKxP = objective.scale_DxFxKxP * found.point_DxFxKxP
    return point_DxFxKxP, found.largest_DxF, taken_DxF, sums.right(point_DxFxKxP)


class _Sums:
    """Sums over the rows of problems."""

    def __init__(self, problems, num_classes, rows):
        self.problems, self.num_classes, self.rows = problems, num_classes, rows
        self.count, self.total_DxF = problems.label_DxN.shape[1], jnp.sum(problems.weight_DxFxN, 2)
        self.one_chunk = rows == self.count

    def over_rows(self, function):
        """Sums of a function of rows; of several chunks, one's logits are in memory."""

        def of_rows(x_DxMxR, label_DxM, weight_DxFxM):
            own_Dx1xKxM = label_DxM[:, None, None] == jnp.arange(self.num_classes)[:, None]
            return function(x_DxMxR.astype(jnp.float32), own_Dx1xKxM, weight_DxFxM)

        def of_chunk(chunk):  # the last one begins among the rows of the one before, which do not count twice
            first = jnp.minimum(chunk * self.rows, self.count - self.rows)
            new_M = first + jnp.arange(self.rows) >= chunk * self.rows
            x_DxMxR, label_DxM, weight_DxFxM = (
                jax.lax.dynamic_slice_in_dim(one, first, self.rows, axis)
                for one, axis in ((x_DxNxR, 1), (label_DxN, 1), (weight_DxFxN, 2))
            )
            return of_rows(x_DxMxR, jnp.where(new_M, label_DxM, -1), jnp.where(new_M, weight_DxFxM, 0))

        x_DxNxR, _, label_DxN, weight_DxFxN = self.problems
        if self.one_chunk:
            return of_rows(x_DxNxR, label_DxN, weight_DxFxN)
        zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), jax.eval_shape(of_chunk, 0))
        return jax.lax.fori_loop(
            0, -(-self.count // self.rows), lambda chunk, sums: jax.tree.map(jnp.add, sums, of_chunk(chunk)), zeros
        )

    def evaluate(self, point_DxFxKxP):
        """Loss, gradient, and the probabilities, which are None if not all are in memory."""

        def of_rows(x_DxMxR, own_Dx1xKxM, weight_DxFxM):
            loss_DxFxM, share_DxFxKxM = _softmax(own_Dx1xKxM, _logits(x_DxMxR, point_DxFxKxP))
            gradient_DxFxKxP = _transposed(x_DxMxR, weight_DxFxM[:, :, None] * (share_DxFxKxM - own_Dx1xKxM))
            kept = share_DxFxKxM if self.one_chunk else None
            return jnp.sum(weight_DxFxM * loss_DxFxM, 2), gradient_DxFxKxP, kept

        return self.over_rows(of_rows)

    def hessian_product(self, point_DxFxKxP, share, way_DxFxKxP):
        """The derivative of the gradient along a way; `share` as of `evaluate`."""

        def of_rows(x_DxMxR, own_Dx1xKxM, weight_DxFxM):
            share_DxFxKxM = share
            if share is None:
                share_DxFxKxM = _softmax(own_Dx1xKxM, _logits(x_DxMxR, point_DxFxKxP))[1]
            change_DxFxKxM = share_DxFxKxM * _logits(x_DxMxR, way_DxFxKxP)
            change_DxFxKxM -= share_DxFxKxM * jnp.sum(change_DxFxKxM, 2, keepdims=True)
            return _transposed(x_DxMxR, weight_DxFxM[:, :, None] * change_DxFxKxM)

        return self.over_rows(of_rows)

    def curvature(self, point_DxFxKxP):
        """p (1 - p) for each class."""

        def of_rows(x_DxMxR, own_Dx1xKxM, weight_DxFxM):
            share_DxFxKxM = _softmax(own_Dx1xKxM, _logits(x_DxMxR, point_DxFxKxP))[1]
            return jnp.sum(weight_DxFxM[:, :, None] * share_DxFxKxM * (1 - share_DxFxKxM), 3)

        return self.over_rows(of_rows)

    def right(self, point_DxFxKxP):
        """How many rows that do not count are classified rightly."""

        def of_rows(x_DxMxR, own_Dx1xKxM, weight_DxFxM):
            logits_DxFxKxM = _logits(x_DxMxR, point_DxFxKxP)
            chosen_DxFxKxM = jnp.argmax(logits_DxFxKxM, 2)[:, :, None] == jnp.arange(self.num_classes)[:, None]
            return jnp.sum(jnp.any(chosen_DxFxKxM & own_Dx1xKxM, 2) & (weight_DxFxM == 0), 2)

        return self.over_rows(of_rows)


class _Known(NamedTuple):
    """A point in scaled coordinates, and what is known of it."""

    point_DxFxKxP: Any
    value_DxF: Any
    gradient_DxFxKxP: Any
    largest_DxF: Any  # entry of the gradient, on the scale by which convergence is judged
    share_DxFxKxM: Any  # of `_Sums.evaluate`


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """The objective as a function of scaled coordinates, those of the designs' bases divided by `scale`."""

    sums: _Sums
    scale_DxFxKxP: Any
    judged_DxFxKxP: Any  # times a gradient: that by which convergence is judged, the same for every start
    penalty_DxFx1xP: Any  # 1 / (C M), 0 for the bias, which is not regularised

    def at(self, scaled_DxFxKxP):
        """`_Known` of a point."""
        point_DxFxKxP, total_DxF = self.scale_DxFxKxP * scaled_DxFxKxP, self.sums.total_DxF
        loss_DxF, gradient_DxFxKxP, share = self.sums.evaluate(point_DxFxKxP)
        pull_DxFxKxP = self.penalty_DxFx1xP * point_DxFxKxP
        gradient_DxFxKxP = self.scale_DxFxKxP * (gradient_DxFxKxP / total_DxF[..., None, None] + pull_DxFxKxP)
        largest_DxF = jnp.max(jnp.abs(self.judged_DxFxKxP * gradient_DxFxKxP), (2, 3))
        value_DxF = loss_DxF / total_DxF + _dot(pull_DxFxKxP, point_DxFxKxP) / 2
        return _Known(scaled_DxFxKxP, value_DxF, gradient_DxFxKxP, largest_DxF, share)

    def hessian_product(self, known, way_DxFxKxP):
        """The Hessian at a known point times a way."""
        point_DxFxKxP, way_DxFxKxP = (self.scale_DxFxKxP * one for one in (known.point_DxFxKxP, way_DxFxKxP))
        changed_DxFxKxP = self.sums.hessian_product(point_DxFxKxP, known.share_DxFxKxM, way_DxFxKxP)
        changed_DxFxKxP /= self.sums.total_DxF[..., None, None]
        return self.scale_DxFxKxP * (changed_DxFxKxP + self.penalty_DxFx1xP * way_DxFxKxP)


def _scaled(sums, spectrum_DxR, point_DxFxKxP, C_D):
    """`_Scaled`, by the curvature at a point."""
    strength_DxFx1x1 = 1 / (C_D[:, None] * sums.total_DxF)[..., None, None]

    def scale_of(curvature_DxFxK):
        # float32 forms the covariance to 1e-6 of its trace's mean; less than that cannot be told from zero
        kernel_DxFxKxR = spectrum_DxR[:, None, None] * curvature_DxFxK[..., None]
        kernel_DxFxKxR += jnp.maximum(strength_DxFx1x1, 1e-6)
        return 1 / jnp.sqrt(jnp.concatenate([kernel_DxFxKxR, curvature_DxFxK[..., None]], 3))

    even = (1 - 1 / sums.num_classes) / sums.num_classes
    curvature_DxFxK = sums.curvature(point_DxFxKxP) / sums.total_DxF[..., None]
    scale_DxFxKxP = scale_of(jnp.maximum(curvature_DxFxK, 1e-3 * even))
    judged_DxFxKxP = scale_of(jnp.full_like(curvature_DxFxK, even)) / scale_DxFxKxP
    is_kernel_P = jnp.arange(point_DxFxKxP.shape[3]) < point_DxFxKxP.shape[3] - 1
    return _Scaled(sums, scale_DxFxKxP, judged_DxFxKxP, strength_DxFx1x1 * is_kernel_P)


def _shortened(at, known, way_DxFxKxP):
    """What is known of the end of a step, halved until the objective descends."""
    slope_DxF = _dot(known.gradient_DxFxKxP, way_DxFxKxP)

    def too_long(tried):
        length_DxF, there = tried
        enough_DxF = known.value_DxF + 1e-4 * length_DxF * slope_DxF + 1e-6 * jnp.abs(known.value_DxF)
        return (there.value_DxF > enough_DxF) & (length_DxF > 1e-3)

    def moved(length_DxF):
        return length_DxF, at(known.point_DxFxKxP + length_DxF[..., None, None] * way_DxFxKxP)

    def halved(tried):
        return moved(jnp.where(too_long(tried), tried[0] / 2, tried[0]))

    return jax.lax.while_loop(lambda tried: jnp.any(too_long(tried)), halved, moved(jnp.ones_like(slope_DxF)))[1]


def _logits(x_DxMxR, point_DxFxKxP):
    # both products have x as it lies in memory
    designs, folds, classes, _ = point_DxFxKxP.shape
    kernel_DxCxR = point_DxFxKxP[..., :-1].reshape(designs, folds * classes, -1)
    logits_DxMxC = jnp.einsum("dmr,dcr->dmc", x_DxMxR, kernel_DxCxR, precision="highest")
    return jnp.swapaxes(logits_DxMxC, 1, 2).reshape(designs, folds, classes, -1) + point_DxFxKxP[..., -1:]


def _transposed(x_DxMxR, error_DxFxKxM):
    """The transpose of `_logits`: sums over rows."""
    kernel_DxFxKxR = jnp.einsum("dfkm,dmr->dfkr", error_DxFxKxM, x_DxMxR, precision="highest")
    return jnp.concatenate([kernel_DxFxKxR, jnp.sum(error_DxFxKxM, 3, keepdims=True)], 3)


def _softmax(own_Dx1xKxM, logits_DxFxKxM):
    """Losses and probabilities; the highest logit is subtracted, so that no exponential overflows."""
    highest_DxFxM = jnp.max(logits_DxFxKxM, 2)
    power_DxFxKxM = jnp.exp(logits_DxFxKxM - highest_DxFxM[:, :, None])
    sum_DxFxM = jnp.sum(power_DxFxKxM, 2)
    loss_DxFxM = highest_DxFxM + jnp.log(sum_DxFxM) - jnp.sum(own_Dx1xKxM * logits_DxFxKxM, 2)
    return loss_DxFxM, power_DxFxKxM / sum_DxFxM[:, :, None]


def _dot(one_DxFxKxP, other_DxFxKxP):
    return jnp.sum(one_DxFxKxP * other_DxFxKxP, (2, 3))


def _conjugate_gradients(product, target_DxFxKxP):
    """Solves product(way) = target to `RESIDUAL`, from zero."""
    square_DxF = _dot(target_DxFxKxP, target_DxFxKxP)
    enough_DxF = RESIDUAL**2 * square_DxF

    def unsolved(state):
        return jnp.any(state[3] > enough_DxF) & (state[4] < MAX_PRODUCTS)

    def one_more(state):
        way_DxFxKxP, left_DxFxKxP, along_DxFxKxP, square_DxF, products = state
        turned_DxFxKxP, active_DxF = product(along_DxFxKxP), square_DxF > enough_DxF
        length_DxF = jnp.where(active_DxF, square_DxF / _dot(along_DxFxKxP, turned_DxFxKxP), 0)
        way_DxFxKxP += length_DxF[..., None, None] * along_DxFxKxP
        left_DxFxKxP -= length_DxF[..., None, None] * turned_DxFxKxP
        new_DxF = _dot(left_DxFxKxP, left_DxFxKxP)
        kept_DxF = jnp.where(active_DxF, new_DxF / square_DxF, 0)
        along_DxFxKxP = left_DxFxKxP + kept_DxF[..., None, None] * along_DxFxKxP
        return way_DxFxKxP, left_DxFxKxP, along_DxFxKxP, new_DxF, products + 1

    start = (jnp.zeros_like(target_DxFxKxP), target_DxFxKxP, target_DxFxKxP, square_DxF, 0)
    return jax.lax.while_loop(unsolved, one_more, start)[0]
