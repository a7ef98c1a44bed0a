"""Multinomial logistic regression on many folds at once and at one strength after another: SciPy's L-BFGS.

    minimise over W, b    mean_n  -log softmax(x_n W + b)[y_n]  +  1/(2 C M) ||W||^2        M examples

That is scikit-learn's `LogisticRegression` objective over C M: the same minimum at the same C; b is not regularised.
Neighbouring cells of an image are so alike that plain L-BFGS needs thousands of iterations. So features are
standardised and rotated onto the eigenvectors of their covariance, once for all C, and each coordinate is divided by
the square root of its curvature c * eigenvalue + 1 / (C M), c = p (1 - p) at equal class probabilities p.

The objective and its gradient are one XLA program, which sees all data; SciPy holds the parameters. `optax.lbfgs` takes
the same number of iterations, and ten times as long to compile, once per shape.
"""

import dataclasses
import functools
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize

logger = logging.getLogger(__name__)

TOLERANCE = 3e-5  # of the gradient's largest entry
PRECISION = 3e-4  # of it, which sums in float32 reach for any features
ROUGH = 1e-3  # enough to compare strengths
MAX_ITERATIONS = 500
LARGEST_ROTATED = 4096  # features (or examples, if fewer); beyond, the eigenvectors would cost more than they save
ROWS = 8192  # read or predicted at once
IN_FLOAT32 = 2**30  # bytes of standardised features; larger ones are stored in float16
LOGITS = 2**26  # numbers of the logits that are in memory at once


class Design(NamedTuple):
    """Standardised features in the basis in which they are solved for."""

    x_NxR: Any  # coordinates, float32 (float16 if large)
    spectrum_R: Any  # their mean squares
    basis_GxR: Any  # standardised features times this are `x_NxR`; None is the identity
    mean_G: np.ndarray
    scale_G: np.ndarray  # standardised = (features - mean) * scale; the scale of a constant feature is 0


def chunks(features_NxG):
    """Row ranges of at most `ROWS`."""
    return [slice(first, first + ROWS) for first in range(0, len(features_NxG), ROWS)]


def moments(features_NxG):
    """(mean_G, scale_G) of `Design`, float32, summed in float64; a chunk of rows in memory."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    for part in chunks(features_NxG):
        scaler.partial_fit(np.asarray(features_NxG[part], np.float32))
    deviation_G = np.sqrt(scaler.var_)
    constant_G = deviation_G <= 1e-6 * np.abs(scaler.mean_)
    scale_G = np.where(constant_G, 0.0, 1 / np.where(constant_G, 1.0, deviation_G))
    return scaler.mean_.astype(np.float32), scale_G.astype(np.float32)


_product = functools.partial(jnp.matmul, precision="highest")


def _eigen(gram_RxR):
    values_R, vectors_RxR = jnp.linalg.eigh(gram_RxR)
    return jnp.maximum(values_R, 0), vectors_RxR


def make_design(features_NxG):
    """Standardises and rotates features of any float type, which may be memory-mapped: chunks of rows are read."""
    (count, size), (mean_G, scale_G) = features_NxG.shape, moments(features_NxG)

    def standardised(part):
        return (np.asarray(features_NxG[part], np.float32) - mean_G) * scale_G

    if min(count, size) > LARGEST_ROTATED:
        spectrum_G, basis_GxG = jnp.ones(size), None
    elif count < size:  # W lies in the span of the examples: N numbers a class instead of G
        x_NxG = jnp.asarray(standardised(slice(None)))
        values_N, vectors_NxN = _eigen(_product(x_NxG, x_NxG.T))
        length_N = jnp.sqrt(jnp.where(values_N > 1e-6 * values_N[-1], values_N, 0))
        inverse_N = jnp.where(length_N > 0, 1 / jnp.maximum(length_N, 1e-30), 0)
        basis_GxN = _product(x_NxG.T, vectors_NxN) * inverse_N
        return Design(vectors_NxN * length_N, length_N**2 / count, basis_GxN, mean_G, scale_G)
    else:
        gram_GxG = sum(_product(x_MxG.T, x_MxG) for x_MxG in map(standardised, chunks(features_NxG)))
        spectrum_G, basis_GxG = _eigen(gram_GxG / count)
    x_NxG = np.empty((count, size), np.float32 if 4 * count * size <= IN_FLOAT32 else np.float16)
    for part in chunks(features_NxG):
        x_NxG[part] = standardised(part) if basis_GxG is None else _product(standardised(part), basis_GxG)
    return Design(jnp.asarray(x_NxG), spectrum_G, basis_GxG, mean_G, scale_G)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted classifier of features as they come, not standardised."""

    kernel_GxK: np.ndarray  # of standardised features
    bias_K: np.ndarray
    mean_G: np.ndarray  # of `Design`
    scale_G: np.ndarray
    C: float  # inverse regularisation, as scikit-learn's
    gradient: float  # largest entry at the end
    iterations: int  # of L-BFGS

    @property
    def converged(self):
        """Whether the minimum was reached, as far as sums in float32 tell."""
        return self.gradient <= PRECISION

    def probabilities(self, x_NxG):
        """softmax of the logits: NxK, rows sum to one."""
        return self._of_logits(x_NxG, jax.nn.softmax)

    def ranked(self, x_NxG, most=5):
        """The likeliest classes of each example, the likeliest first: NxM."""
        count = min(most, len(self.bias_K))
        return self._of_logits(x_NxG, lambda logits_MxK: jax.lax.top_k(logits_MxK, count)[1])

    def accuracy(self, x_NxG, label_N):
        """Fraction of the examples that it gets right."""
        return float(np.mean(self.ranked(x_NxG, 1)[:, 0] == label_N))

    def _of_logits(self, x_NxG, function):
        found = []
        for part in chunks(x_NxG):
            x_MxG = (np.asarray(x_NxG[part], np.float32) - self.mean_G) * self.scale_G
            found.append(np.asarray(function(_product(x_MxG, self.kernel_GxK) + self.bias_K)))
        return np.concatenate(found)


class Solutions(NamedTuple):
    """Solutions of F problems (folds) on one design, at one C."""

    kernel_FxRxK: Any  # in the design's basis
    bias_FxK: Any
    gradient_F: np.ndarray  # largest entry at the end of each
    iterations: int  # of L-BFGS, which takes the problems together


def solve(
    design, label_N, num_classes, C, weight_FxN=None, *, start=None, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS
):
    """Solves F problems at one C together.

    Args:
        design: from `make_design`.
        label_N: integers, 0 <= label < num_classes.
        num_classes: K. Of two classes scikit-learn learns one vector instead of two and so regularises twice as much;
            that is followed.
        C: inverse regularisation.
        weight_FxN: 1 for the examples that count in a problem, else 0; None is one problem with all.
        start: `Solutions` to begin at, such as those of a smaller C; None begins at zero.
        tolerance, max_iterations: ends when no entry of the preconditioned gradient is larger.

    Returns:
        `Solutions`.
    """
    count, size = design.x_NxR.shape
    weight_FxN = np.ones((1, count), np.float32) if weight_FxN is None else np.asarray(weight_FxN, np.float32)
    num_folds, rows = len(weight_FxN), max(1, min(count, LOGITS // (len(weight_FxN) * num_classes)))
    strength_F = 1 / (C * (0.5 if num_classes == 2 else 1.0) * weight_FxN.sum(1))
    # float32 forms the covariance to 1e-6 of its trace's mean; less than that cannot be told from zero
    curvature_FxR = (1 - 1 / num_classes) / num_classes * design.spectrum_R + np.maximum(strength_F, 1e-6)[:, None]
    precondition_FxRx1 = (1 / np.sqrt(curvature_FxR))[..., None].astype(np.float32)
    data = (
        *_chunked(design.x_NxR, label_N, weight_FxN, rows),
        jnp.asarray(precondition_FxRx1),
        jnp.asarray(strength_F, jnp.float32),
    )
    shape = (num_folds, size + 1, num_classes)  # the last row is the bias

    def value_and_gradient(point):
        value, gradient = _value_and_gradient(np.asarray(point, np.float32).reshape(shape), *data)
        return float(value), np.asarray(gradient, np.float64).ravel()

    point = np.zeros(shape)
    if start is not None:
        point = np.concatenate([start.kernel_FxRxK / precondition_FxRx1, start.bias_FxK[:, None]], 1)
    found = minimize(
        value_and_gradient, point.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "gtol": tolerance, "ftol": 0},
    )  # fmt: skip
    point = found.x.astype(np.float32).reshape(shape)
    gradient_F = np.abs(found.jac).reshape(num_folds, -1).max(1)
    return Solutions(precondition_FxRx1 * point[:, :-1], point[:, -1], gradient_F, int(found.nit))


@functools.partial(jax.jit, static_argnames="rows")
def _chunked(x_NxR, label_N, weight_FxN, rows):
    """(x_SxMxR, label_SxM, share_SxMxF): at most `rows` examples a chunk; the shares of a fold sum to 1."""
    pad = -len(x_NxR) % rows
    x_SxMxR = jnp.pad(x_NxR, ((0, pad), (0, 0))).reshape(-1, rows, x_NxR.shape[1])
    label_SxM = jnp.pad(label_N.astype(jnp.int32), (0, pad)).reshape(-1, rows)
    share_NxF = (weight_FxN / jnp.sum(weight_FxN, 1, keepdims=True)).T
    return x_SxMxR, label_SxM, jnp.pad(share_NxF, ((0, pad), (0, 0))).reshape(-1, rows, len(weight_FxN))


@jax.jit
def _value_and_gradient(point_FxPxK, x_SxMxR, label_SxM, share_SxMxF, precondition_FxRx1, strength_F):
    def loss_of_rows(kernel_FxRxK, bias_FxK, x_MxR, label_M, share_MxF):
        logits_MxFxK = jnp.einsum("mr,frk->mfk", x_MxR.astype(jnp.float32), kernel_FxRxK, precision="highest")
        label_MxF = jnp.broadcast_to(label_M[:, None], share_MxF.shape)
        return jnp.sum(share_MxF * optax.softmax_cross_entropy_with_integer_labels(logits_MxFxK + bias_FxK, label_MxF))

    if len(x_SxMxR) > 1:  # one chunk's logits in memory; a single chunk need not be computed twice
        loss_of_rows = jax.checkpoint(loss_of_rows)

    def objective(point_FxPxK):  # the sum: its gradient holds every problem's own
        kernel_FxRxK, bias_FxK = precondition_FxRx1 * point_FxPxK[:, :-1], point_FxPxK[:, -1]

        def step(total, parts):
            return total + loss_of_rows(kernel_FxRxK, bias_FxK, *parts), None

        loss, _ = jax.lax.scan(step, jnp.float32(0), (x_SxMxR, label_SxM, share_SxMxF))
        return loss + jnp.sum(strength_F / 2 * jnp.sum(kernel_FxRxK**2, (1, 2)))

    return jax.value_and_grad(objective)(point_FxPxK)


def held_out_right(design, label_N, num_classes, Cs, weight_FxN):
    """How many examples that a fold leaves out its solution classifies rightly, at each C, summed over folds.

    Each C begins at the solutions of the one before: together they take a third of the iterations.

    Args:
        design, label_N, num_classes: as of `solve`.
        Cs: ascending.
        weight_FxN: 1 for the examples that a fold trains on, 0 for those that it leaves out.

    Returns:
        One integer per C.
    """
    found, start = [], None
    for C in Cs:
        start = solve(design, label_N, num_classes, C, weight_FxN, start=start, tolerance=ROUGH, max_iterations=100)
        found.append(int(np.sum((predictions(design, start) == label_N) & (np.asarray(weight_FxN) == 0))))
    return found


def predictions(design, solutions):
    """The likeliest class of the design's own examples by each solution: FxN."""
    rows, parts = max(1, LOGITS // solutions.bias_FxK.size), []
    for first in range(0, len(design.x_NxR), rows):
        x_MxR = design.x_NxR[first : first + rows].astype(jnp.float32)
        logits_FxMxK = jnp.einsum("mr,frk->fmk", x_MxR, solutions.kernel_FxRxK, precision="highest")
        parts.append(np.asarray(jnp.argmax(logits_FxMxK + solutions.bias_FxK[:, None], -1)))
    return np.concatenate(parts, 1)


def fit(features_NxG, label_N, C, num_classes):
    """A `Classifier` fitted to convergence; a warning where it does not converge.

    Args:
        features_NxG, label_N: the training set; labels from 0.
        C: inverse regularisation, as scikit-learn's, on standardised features.
        num_classes: K.
    """
    design = make_design(features_NxG)
    found = solve(design, label_N, num_classes, C, start=solve(design, label_N, num_classes, C / 10, tolerance=ROUGH))
    kernel = found.kernel_FxRxK[0] if design.basis_GxR is None else _product(design.basis_GxR, found.kernel_FxRxK[0])
    fitted = Classifier(
        np.asarray(kernel), np.asarray(found.bias_FxK[0]), design.mean_G, design.scale_G,
        float(C), float(found.gradient_F[0]), found.iterations,
    )  # fmt: skip
    if not fitted.converged:
        logger.warning(
            "logistic regression at C = %g has not converged: largest gradient %.1e after %d iterations (tolerance %g)",
            C, fitted.gradient, fitted.iterations, PRECISION,
        )  # fmt: skip
    return fitted
