"""Multinomial logistic regression on many folds and draws at once, at one strength after another, by Newton's method.

    minimise over W, b    mean_n  -log softmax(x_n W + b)[y_n]  +  1/(2 C M) ||W||^2        M examples

That is scikit-learn's `LogisticRegression` objective over C M: the same minimum at the same C; b is not regularised.
Neighbouring cells of an image are so alike that first-order methods need thousands of iterations. So features are
standardised and rotated onto the eigenvectors of their covariance, once for all C (`newton`).

All problems of one shape are one XLA program: designs (draws of examples) and folds are axes of it.
"""

import dataclasses
import functools
import logging
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crate_jax.evaluation.newton import newton

logger = logging.getLogger(__name__)

TOLERANCE = 3e-5  # of the gradient's largest entry
PRECISION = 3e-4  # of it, which sums in float32 reach for any features
ROUGH = 1e-3  # enough to compare strengths
MAX_ITERATIONS = 100  # steps of Newton's method
MAX_ROUGH = 12  # of them, to compare strengths
LARGEST_ROTATED = 4096  # features (or examples, if fewer); beyond, the eigenvectors would cost more than they save
ROWS = 8192  # read or predicted at once
IN_FLOAT32 = 2**30  # bytes of standardised features; larger ones are stored in float16
LOGITS = 2**26  # numbers of the logits that are in memory at once


class Design(NamedTuple):
    """Standardised features in the basis in which they are solved for."""

    x_NxR: np.ndarray  # coordinates, float32 (float16 if large)
    spectrum_R: np.ndarray  # their mean squares
    basis_GxR: np.ndarray | None  # standardised features times this are `x_NxR`; None is the identity
    mean_G: np.ndarray
    scale_G: np.ndarray  # standardised = (features - mean) * scale; the scale of a constant feature is 0


def chunks(features_NxG):
    """Row ranges of at most `ROWS`."""
    return [slice(first, first + ROWS) for first in range(0, len(features_NxG), ROWS)]


def moments(features_NxG):
    """(mean_G, scale_G) of `Design`, float32, summed in float64; a chunk of rows in memory."""
    sums_2xG = np.zeros((2, features_NxG.shape[1]))
    for part in chunks(features_NxG):
        x_MxG = np.asarray(features_NxG[part], np.float64)
        sums_2xG += x_MxG.sum(0), (x_MxG**2).sum(0)
    mean_G, square_G = sums_2xG / len(features_NxG)
    deviation_G = np.sqrt(np.maximum(square_G - mean_G**2, 0))
    constant_G = deviation_G <= 1e-6 * np.abs(mean_G)
    scale_G = np.where(constant_G, 0.0, 1 / np.where(constant_G, 1.0, deviation_G))
    return mean_G.astype(np.float32), scale_G.astype(np.float32)


def _eigen(gram_RxR):
    values_R, vectors_RxR = np.linalg.eigh(gram_RxR)
    return np.maximum(values_R, 0), vectors_RxR


def _empty(shape, dtype):
    """An array at an address that XLA's CPU backend takes without a copy, a multiple of 64 bytes."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(dtype).reshape(shape)


def make_design(features_NxG):
    """Standardises and rotates features of any float type, which may be memory-mapped: chunks of rows are read.

    On the host, where no program needs to be compiled for each shape.
    """
    (count, size), (mean_G, scale_G) = features_NxG.shape, moments(features_NxG)

    def standardised(part):
        return (np.asarray(features_NxG[part], np.float32) - mean_G) * scale_G

    if min(count, size) > LARGEST_ROTATED:
        spectrum_G, basis_GxG = np.ones(size, np.float32), None
    elif count < size:  # W lies in the span of the examples: N numbers a class instead of G
        x_NxG = standardised(slice(None))
        values_N, vectors_NxN = _eigen(x_NxG @ x_NxG.T)
        length_N = np.sqrt(np.where(values_N > 1e-6 * values_N[-1], values_N, 0))
        inverse_N = np.where(length_N > 0, 1 / np.maximum(length_N, 1e-30), 0)
        return Design(vectors_NxN * length_N, length_N**2 / count, x_NxG.T @ vectors_NxN * inverse_N, mean_G, scale_G)
    else:
        gram_GxG = sum(x_MxG.T @ x_MxG for x_MxG in map(standardised, chunks(features_NxG)))
        spectrum_G, basis_GxG = _eigen(gram_GxG / np.float32(count))
    x_NxG = _empty((count, size), np.float32 if 4 * count * size <= IN_FLOAT32 else np.float16)
    for part in chunks(features_NxG):
        x_NxG[part] = standardised(part) if basis_GxG is None else standardised(part) @ basis_GxG
    return Design(x_NxG, spectrum_G, basis_GxG, mean_G, scale_G)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted classifier of features as they come, not standardised."""

    kernel_GxK: np.ndarray  # of standardised features
    bias_K: np.ndarray
    mean_G: np.ndarray  # of `Design`
    scale_G: np.ndarray
    C: float  # inverse regularisation, as scikit-learn's
    gradient: float  # largest entry at the end
    iterations: int  # of Newton's method

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
        return float(np.mean(self._of_logits(x_NxG, lambda logits_MxK: logits_MxK.argmax(1)) == label_N))

    def _of_logits(self, x_NxG, function):
        found = []
        for part in chunks(x_NxG):
            x_MxG = (np.asarray(x_NxG[part], np.float32) - self.mean_G) * self.scale_G
            found.append(np.asarray(function(x_MxG @ self.kernel_GxK + self.bias_K)))
        return np.concatenate(found)


class Problems(NamedTuple):
    """F folds of each of D designs."""

    x_DxNxR: Any
    spectrum_DxR: Any
    label_DxN: Any  # -1 for padding
    weight_DxFxN: Any  # 1 for the examples that count in a fold, else 0


def make_problems(designs, label_DxN, weight_DxFxN=None, *, least=0):
    """`Problems` of designs with equally many examples.

    Args:
        designs: from `make_design`.
        label_DxN: integers from 0.
        weight_DxFxN: 1 for the examples that count in a fold, else 0; None is one fold with all.
        least: examples and coordinates are filled up to so many, which makes the shapes of several sets equal.
    """
    count, width = len(designs[0].x_NxR), max(least, *(design.x_NxR.shape[1] for design in designs))
    if weight_DxFxN is None:
        weight_DxFxN = np.ones((len(designs), 1, count))

    def filled(array, shape, value=0):  # by NumPy: each shape would be compiled
        padding = [(0, size - length) for size, length in zip(shape, array.shape, strict=True)]
        return np.pad(array, padding, constant_values=value) if np.any(padding) else array

    def stacked(arrays):  # one may be gigabytes; `jnp.asarray` would make two copies
        return jax.device_put(arrays[0][None] if len(arrays) == 1 else np.stack(arrays))

    rows = max(count, least)
    return Problems(
        stacked([filled(design.x_NxR, (rows, width)) for design in designs]),
        stacked([filled(design.spectrum_R, (width,)) for design in designs]),
        jnp.asarray(filled(np.asarray(label_DxN, np.int32), (len(designs), rows), -1)),
        jnp.asarray(filled(np.asarray(weight_DxFxN, np.float32), (*weight_DxFxN.shape[:2], rows))),
    )


class Solutions(NamedTuple):
    """Solutions of `Problems`, each at one C."""

    point_DxFxKxP: Any  # kernel in the design's basis, and bias as the last number
    gradient_DxF: Any  # largest entry at the end of each
    iterations_DxF: Any  # of Newton's method
    right_DxF: Any  # how many examples that do not count in a fold its solution classifies rightly


def solve(problems, num_classes, C, *, start=None, tolerance=TOLERANCE, max_iterations=MAX_ITERATIONS):
    """`Solutions` of problems.

    Of two classes scikit-learn learns one vector instead of two and so regularises twice as much; that is followed.

    Args:
        problems: from `make_problems`.
        num_classes: above every label.
        C: inverse regularisation; a number, or one a design.
        start: `Solutions` to begin at, such as those of a smaller C; None begins at zero.
        tolerance, max_iterations: ends when no entry of the preconditioned gradient is larger.
    """
    designs, folds, count = problems.weight_DxFxN.shape
    # of float16 a chunk is converted, which may be larger than its logits
    width = 0 if problems.x_DxNxR.dtype == np.float32 else problems.x_DxNxR.shape[2]
    rows = max(1, min(count, LOGITS // (designs * max(folds * num_classes, width))))
    C_D = np.broadcast_to(np.float32(C), designs) * np.float32(0.5 if num_classes == 2 else 1.0)
    if start is None:
        point_DxFxKxP = np.zeros((designs, folds, num_classes, problems.x_DxNxR.shape[-1] + 1), np.float32)
    else:
        point_DxFxKxP = start.point_DxFxKxP
    solved = _compiled(jax.default_backend())(problems, point_DxFxKxP, C_D, tolerance, max_iterations, rows)
    return Solutions(*solved)


@functools.cache
def _compiled(backend):
    # on CPU LLVM's last level costs a third of the compilation and gains nothing
    options = {"xla_backend_optimization_level": 1} if backend == "cpu" else None
    return jax.jit(newton, static_argnums=5, compiler_options=options)


def held_out_right(problems, num_classes, Cs):
    """How many examples that a fold leaves out its solution classifies rightly, at each C, summed over folds: DxC.

    Each of the `Cs`, ascending, begins at the solutions of the one before.
    """
    found, start = [], None
    for C in Cs:
        start = solve(problems, num_classes, C, start=start, tolerance=ROUGH, max_iterations=MAX_ROUGH)
        found.append(start.right_DxF)
    return np.stack(jax.device_get(found), 1).sum(2)


def fit_all(examples, num_classes, *, least=0):
    """`fit` of several sets of equally many examples at once: a list of `Classifier`.

    `examples` are (features_NxG, label_N, C); `least` is that of `make_problems`.
    """
    designs, C_D = [make_design(features_NxG) for features_NxG, _, _ in examples], np.array([C for *_, C in examples])
    problems = make_problems(designs, np.stack([label_N for _, label_N, _ in examples]), least=least)
    designs = [design._replace(x_NxR=None) for design in designs]  # the device has them
    start = solve(problems, num_classes, C_D / 10, tolerance=ROUGH, max_iterations=MAX_ROUGH)
    solved, fitted = jax.device_get(solve(problems, num_classes, C_D, start=start)), []
    for design, C, (point_KxP,), (gradient,), (taken,), _ in zip(designs, C_D, *solved, strict=True):
        point_PxK = point_KxP.T
        kernel_GxK = point_PxK[: len(design.spectrum_R)]
        if design.basis_GxR is not None:
            kernel_GxK = design.basis_GxR @ kernel_GxK
        found = (kernel_GxK, point_PxK[-1], design.mean_G, design.scale_G, float(C), float(gradient), int(taken))
        fitted.append(Classifier(*found))
        if not fitted[-1].converged:
            logger.warning(
                "logistic regression at C = %g has not converged: largest gradient %.1e after %d iterations "
                "(tolerance %g)", C, gradient, taken, PRECISION,
            )  # fmt: skip
    return fitted


def fit(features_NxG, label_N, C, num_classes):
    """A `Classifier` fitted to convergence; a warning where it does not converge.

    `label_N` are integers from 0; C is scikit-learn's inverse regularisation, of standardised features.
    """
    return fit_all([(features_NxG, label_N, C)], num_classes)[0]
