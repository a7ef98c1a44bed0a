"""Multinomial logistic regression at many strengths and on many folds at once, by preconditioned L-BFGS (optax).

    minimise over W, b    mean_n  -log softmax(x_n W + b)[y_n]  +  1/(2 C M) ||W||^2        M examples

That is scikit-learn's `LogisticRegression` objective over C M: the same minimum at the same C; b is not regularised.
Neighbouring cells of an image are so alike that plain L-BFGS needs thousands of iterations. So features are
standardised and rotated onto the eigenvectors of their covariance, once for all C, and each coordinate is divided by
the square root of its curvature c * eigenvalue + 1 / (C M), c = p (1 - p) at equal class probabilities p.
"""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

logger = logging.getLogger(__name__)

TOLERANCE = 3e-5  # of the gradient's largest entry
ROUGH = 1e-3  # enough to compare strengths
MAX_ITERATIONS = 300
LARGEST_ROTATED = 4096  # features (or examples, if fewer); beyond, the eigenvectors would cost more than they save
ROWS = 8192  # read or predicted at once
IN_FLOAT32 = 2**30  # bytes of standardised features; larger ones are stored in float16
LOGITS = 2**26  # numbers of the logits that are in memory at once
PARAMETERS = 2**24  # of the problems that are solved at once


@dataclasses.dataclass(frozen=True)
class Design:
    """Standardised features in the basis in which they are solved for.

    Attributes:
        x_NxR: coordinates, float32 (float16 if large).
        spectrum_R: their mean squares.
        basis_GxR: standardised features times this are `x_NxR`; None is the identity.
        mean_G, scale_G: standardised = (features - mean) * scale; the scale of a constant feature is 0.
    """

    x_NxR: Any
    spectrum_R: Any
    basis_GxR: Any
    mean_G: np.ndarray
    scale_G: np.ndarray


def chunks(features_NxG):
    """Row ranges of at most `ROWS`."""
    return [slice(first, first + ROWS) for first in range(0, len(features_NxG), ROWS)]


def moments(features_NxG):
    """(mean_G, scale_G) of `Design`, float32, summed in float64; one pass each, a chunk of rows in memory."""
    count, parts = len(features_NxG), chunks(features_NxG)
    mean_G = sum(np.asarray(features_NxG[part], np.float32).sum(0, dtype=np.float64) for part in parts) / count
    square_G = sum(
        np.square(np.asarray(features_NxG[part], np.float32) - mean_G.astype(np.float32)).sum(0, dtype=np.float64)
        for part in parts
    )
    deviation_G = np.sqrt(square_G / count)
    constant_G = deviation_G <= 1e-6 * np.abs(mean_G)
    scale_G = np.where(constant_G, 0.0, 1 / np.where(constant_G, 1.0, deviation_G))
    return mean_G.astype(np.float32), scale_G.astype(np.float32)


_product = functools.partial(jnp.matmul, precision="highest")


@jax.jit
def _gram(rows_MxG):
    return _product(rows_MxG.T, rows_MxG)


@jax.jit
def _eigen(gram_RxR):
    values_R, vectors_RxR = jnp.linalg.eigh(gram_RxR)
    return jnp.maximum(values_R, 0), vectors_RxR


def make_design(features_NxG):
    """Standardises and rotates features.

    Args:
        features_NxG: any float type; may be memory-mapped, a chunk of rows is read at a time.

    Returns:
        A `Design`.
    """
    (count, size), (mean_G, scale_G) = features_NxG.shape, moments(features_NxG)

    def standardised(part):
        return (np.asarray(features_NxG[part], np.float32) - mean_G) * scale_G

    dtype = np.float32 if 4 * count * min(count, size) <= IN_FLOAT32 else np.float16
    if min(count, size) > LARGEST_ROTATED:
        x_NxG = np.empty((count, size), dtype)
        for part in chunks(features_NxG):
            x_NxG[part] = standardised(part)
        return Design(jnp.asarray(x_NxG), jnp.ones(size), None, mean_G, scale_G)
    if count < size:  # W lies in the span of the examples: N numbers a class instead of G
        x_NxG = jnp.asarray(standardised(slice(None)))
        values_N, vectors_NxN = _eigen(_gram(x_NxG.T))
        length_N = jnp.sqrt(jnp.where(values_N > 1e-6 * values_N[-1], values_N, 0))
        inverse_N = jnp.where(length_N > 0, 1 / jnp.maximum(length_N, 1e-30), 0)
        basis_GxN = _product(x_NxG.T, vectors_NxN) * inverse_N
        return Design(vectors_NxN * length_N, length_N**2 / count, basis_GxN, mean_G, scale_G)
    gram_GxG = sum(_gram(standardised(part)) for part in chunks(features_NxG))
    values_G, basis_GxG = _eigen(gram_GxG / count)
    x_NxG = np.empty((count, size), dtype)
    for part in chunks(features_NxG):
        x_NxG[part] = _product(standardised(part), basis_GxG)
    return Design(jnp.asarray(x_NxG), values_G, basis_GxG, mean_G, scale_G)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted classifier of features as they come, not standardised.

    Attributes:
        kernel_GxK, bias_K: of standardised features.
        mean_G, scale_G: of `Design`.
        C: inverse regularisation, as scikit-learn's.
        gradient: largest entry at the end.
        iterations: of L-BFGS.
    """

    kernel_GxK: np.ndarray
    bias_K: np.ndarray
    mean_G: np.ndarray
    scale_G: np.ndarray
    C: float
    gradient: float
    iterations: int

    @property
    def converged(self):
        """Whether the tolerance was reached."""
        return self.gradient <= 2 * TOLERANCE

    def probabilities(self, x_NxG):
        """softmax of the logits: NxK, rows sum to one."""
        found = [_probabilities(self._standardised(x_NxG[p]), self.kernel_GxK, self.bias_K) for p in chunks(x_NxG)]
        return np.concatenate([np.asarray(one) for one in found])

    def ranked(self, x_NxG, most=5):
        """The likeliest classes of each example, the likeliest first: NxM."""
        count = min(most, len(self.bias_K))
        found = [_ranked(self._standardised(x_NxG[p]), self.kernel_GxK, self.bias_K, count) for p in chunks(x_NxG)]
        return np.concatenate([np.asarray(one) for one in found])

    def accuracy(self, x_NxG, label_N):
        """Fraction of the examples that it gets right."""
        return float(np.mean(self.ranked(x_NxG, 1)[:, 0] == label_N))

    def _standardised(self, x_MxG):
        return (np.asarray(x_MxG, np.float32) - self.mean_G) * self.scale_G


@jax.jit
def _probabilities(x_NxG, kernel_GxK, bias_K):
    return jax.nn.softmax(_product(x_NxG, kernel_GxK) + bias_K, -1)


@functools.partial(jax.jit, static_argnames="count")
def _ranked(x_NxG, kernel_GxK, bias_K, count):
    return jax.lax.top_k(_product(x_NxG, kernel_GxK) + bias_K, count)[1]


@dataclasses.dataclass(frozen=True)
class Solutions:
    """Solutions of P problems on one design.

    Attributes:
        kernel_PxRxK, bias_PxK: in the design's basis.
        gradient_P: largest entry at the end of each.
        iterations: of L-BFGS, which takes the problems together.
    """

    kernel_PxRxK: Any
    bias_PxK: Any
    gradient_P: np.ndarray
    iterations: int


def solve(design, label_N, num_classes, Cs, weight_PxN=None, *, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS):
    """Solves P problems at once, as many as `PARAMETERS` allows.

    Args:
        design: from `make_design`.
        label_N: integers, 0 <= label < num_classes.
        num_classes: K. Of two classes scikit-learn learns one vector instead of two and so regularises twice as much;
            that is followed.
        Cs: P values.
        weight_PxN: 1 for the examples that count in a problem, else 0; None is all.
        tolerance, max_iterations: ends when no entry of the preconditioned gradient is larger.

    Returns:
        `Solutions`.
    """
    count, size = design.x_NxR.shape
    weight_PxN = np.ones((len(Cs), count), np.float32) if weight_PxN is None else np.asarray(weight_PxN, np.float32)
    strength_P = 1 / (np.asarray(Cs, np.float64) * (0.5 if num_classes == 2 else 1.0) * weight_PxN.sum(1))
    at_once = max(1, PARAMETERS // (size * num_classes))
    rows = max(1, min(count, LOGITS // (min(at_once, len(Cs)) * num_classes)))
    x_NxR, label_N = design.x_NxR, jnp.asarray(label_N, jnp.int32)
    parts, iterations = [], 0
    for first in range(0, len(Cs), at_once):
        part = slice(first, first + at_once)
        found = _solve(
            x_NxR, label_N, weight_PxN[part], design.spectrum_R, strength_P[part].astype(np.float32),
            num_classes=num_classes, rows=rows, tolerance=tolerance, max_iterations=max_iterations,
        )  # fmt: skip
        parts.append(found[:3])
        iterations += int(found[3])
    kernel, bias, gradient = (jnp.concatenate(one) for one in zip(*parts, strict=True))
    return Solutions(kernel, bias, np.asarray(gradient), iterations)


@functools.partial(jax.jit, static_argnames=("num_classes", "rows", "max_iterations"))
def _solve(x_NxR, label_N, weight_PxN, spectrum_R, strength_P, *, num_classes, rows, tolerance, max_iterations):
    curvature = (1 - 1 / num_classes) / num_classes
    # float32 forms the covariance to 1e-6 of its trace's mean; less than that cannot be told from zero
    precondition_PxR = jax.lax.rsqrt(curvature * spectrum_R + jnp.maximum(strength_P, 1e-6)[:, None])
    pad = -len(x_NxR) % rows
    x_SxMxR = jnp.pad(x_NxR, ((0, pad), (0, 0))).reshape(-1, rows, x_NxR.shape[1])
    label_SxM = jnp.pad(label_N, (0, pad)).reshape(-1, rows)

    share_SxMxP = jnp.pad(weight_PxN / jnp.sum(weight_PxN, 1, keepdims=True), ((0, 0), (0, pad))).T
    share_SxMxP = share_SxMxP.reshape(-1, rows, len(strength_P))

    @jax.checkpoint
    def loss_of_rows(kernel_PxRxK, bias_PxK, x_MxR, label_M, share_MxP):
        logits_MxPxK = jnp.einsum("mr,prk->mpk", x_MxR.astype(jnp.float32), kernel_PxRxK, precision="highest")
        label_MxP = jnp.broadcast_to(label_M[:, None], share_MxP.shape)
        return jnp.sum(share_MxP * optax.softmax_cross_entropy_with_integer_labels(logits_MxPxK + bias_PxK, label_MxP))

    def objective(point):  # the sum: its gradient holds every problem's own
        kernel_PxRxK = precondition_PxR[..., None] * point["kernel"]

        def step(total, parts):
            return total + loss_of_rows(kernel_PxRxK, point["bias"], *parts), None

        loss, _ = jax.lax.scan(step, jnp.float32(0), (x_SxMxR, label_SxM, share_SxMxP))
        return loss + jnp.sum(strength_P / 2 * jnp.sum(kernel_PxRxK**2, (1, 2)))

    start = {
        "kernel": jnp.zeros((*precondition_PxR.shape, num_classes)),
        "bias": jnp.zeros((len(strength_P), num_classes)),
    }
    point, gradient, iterations = _minimise(objective, start, tolerance, max_iterations)
    largest_P = jnp.maximum(jnp.max(jnp.abs(gradient["kernel"]), (1, 2)), jnp.max(jnp.abs(gradient["bias"]), 1))
    return precondition_PxR[..., None] * point["kernel"], point["bias"], largest_P, iterations


def _minimise(objective, start, tolerance, max_iterations):
    """(point, gradient, iterations) of L-BFGS."""
    # preconditioned, a step of 1 is nearly always right: few values are needed, and rounding is no reason to go back
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=12, rtol=1e-6, store_grad=True)
    solver = optax.lbfgs(memory_size=10, linesearch=search)
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def unfinished(carry):
        _, state, iteration = carry
        gradient = optax.tree_utils.tree_get(state, "grad")
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(gradient)]))
        return (iteration == 0) | ((iteration < max_iterations) & (largest > tolerance))

    def step(carry):
        point, state, iteration = carry
        value, gradient = value_and_gradient(point, state=state)
        update, state = solver.update(gradient, state, point, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(point, update), state, iteration + 1

    point, state, iterations = jax.lax.while_loop(unfinished, step, (start, solver.init(start), 0))
    return point, optax.tree_utils.tree_get(state, "grad"), iterations


def predictions(design, solutions):
    """The likeliest class of the design's own examples by each solution: PxN."""
    rows = max(1, LOGITS // solutions.bias_PxK.size)
    parts = [
        np.asarray(_likeliest(design.x_NxR[first : first + rows], solutions.kernel_PxRxK, solutions.bias_PxK))
        for first in range(0, len(design.x_NxR), rows)
    ]
    return np.concatenate(parts, 1)


@jax.jit
def _likeliest(x_MxR, kernel_PxRxK, bias_PxK):
    logits_PxMxK = jnp.einsum("mr,prk->pmk", x_MxR.astype(jnp.float32), kernel_PxRxK, precision="highest")
    return jnp.argmax(logits_PxMxK + bias_PxK[:, None], -1)


def fit(features_NxG, label_N, C, num_classes, *, design=None):
    """A classifier fitted to convergence; a warning where it does not converge.

    Args:
        features_NxG, label_N: the training set; labels from 0.
        C: inverse regularisation, as scikit-learn's, on standardised features.
        num_classes: K.
        design: of the features, where it is there already.

    Returns:
        A `Classifier`.
    """
    design = make_design(features_NxG) if design is None else design
    found = solve(design, label_N, num_classes, [C])
    kernel = found.kernel_PxRxK[0] if design.basis_GxR is None else _product(design.basis_GxR, found.kernel_PxRxK[0])
    fitted = Classifier(
        np.asarray(kernel), np.asarray(found.bias_PxK[0]), design.mean_G, design.scale_G,
        float(C), float(found.gradient_P[0]), found.iterations,
    )  # fmt: skip
    if not fitted.converged:
        logger.warning(
            "logistic regression at C = %g has not converged: largest gradient %.1e after %d iterations (tolerance %g)",
            C, fitted.gradient, fitted.iterations, TOLERANCE,
        )  # fmt: skip
    return fitted
