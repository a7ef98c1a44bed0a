"""Multinomial logistic regression, solved to convergence on the device: L-BFGS, then Newton's method, in float32.

    minimise over W, b    mean_n  -log softmax(x_n W + b)[y_n]  +  1/(2 C M) ||W||^2        M examples

That is scikit-learn's `LogisticRegression` objective over C M: the same minimum at the same C; b is not regularised.
Neighbouring cells of an image are so alike that L-BFGS alone needs thousands of iterations. So it runs in v, W = T v,
with T T^T the inverse of c X^T X / M + I / (C M), the Hessian if every example had the curvature c of the start.
Examples carry weights, so that leaving some out (a held-out part) needs neither a copy nor another compilation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

TOLERANCE = 3e-6  # of the gradient's largest entry; at scikit-learn's own 1e-4 single test examples still change sides
BY_VALUES = 2e-4  # down to here L-BFGS; below, float32 values of the objective are too coarse for its line search
LENGTHS = np.array([1.0, 0.5, 0.2, 0.05], np.float32)  # of a Newton step
LARGEST_FACTORED = 4096  # features; beyond, the preconditioner would cost more than it saves


def standardise(x_NxG, weight_N):
    """Every feature minus its mean, over its standard deviation; both over the examples of weight 1.

    Args:
        x_NxG: features.
        weight_N: 1 for the examples that count, else 0.

    Returns:
        (standardised_NxG, mean_G, scale_G), f32; standardised = (x - mean) * scale. The scale of a feature that never
        changes is 0.
    """
    return _standardise(jnp.asarray(x_NxG, jnp.float32), jnp.asarray(weight_N, jnp.float32))


@jax.jit
def _standardise(x_NxG, weight_N):
    share_N = weight_N / jnp.sum(weight_N)
    mean_G = jnp.einsum("n,ng->g", share_N, x_NxG, precision="highest")
    centred_NxG = x_NxG - mean_G
    deviation_G = jnp.sqrt(jnp.einsum("n,ng->g", share_N, centred_NxG**2, precision="highest"))
    constant_G = deviation_G <= 1e-6 * jnp.abs(mean_G)
    scale_G = jnp.where(constant_G, 0.0, 1 / jnp.where(constant_G, 1.0, deviation_G))
    return centred_NxG * scale_G, mean_G, scale_G


class LogisticRegression:
    """A data set, and its solutions at one C after the other.

    Args:
        x_NxG: standardised features, f32; may be sharded over examples.
        label_N: integers, 0 <= label < num_classes.
        weight_N: 1 for the examples that count, else 0.
        num_classes: K.
    """

    def __init__(self, x_NxG, label_N, weight_N, num_classes):
        self._basis, self._x_NxG = in_their_span(jnp.asarray(x_NxG, jnp.float32))
        self._label_N = jnp.asarray(label_N, jnp.int32)
        self._weight_N = jnp.asarray(weight_N, jnp.float32)
        self._classes, self._count = num_classes, float(np.sum(np.asarray(weight_N)))
        size = self._x_NxG.shape[1]
        self._gram = _gram(self._x_NxG, self._weight_N) if size <= LARGEST_FACTORED else None
        self._solution = {"kernel": jnp.zeros((size, num_classes)), "bias": jnp.zeros(num_classes)}
        self.iterations, self.gradient = 0, None

    def fit(self, inverse_regularisation, *, tolerance=TOLERANCE, max_iterations=1000):
        """Solves at C, from the solution before.

        Args:
            inverse_regularisation: C, as scikit-learn's; of two classes, where it learns one vector instead of two and
                so regularises twice as much, that is followed.
            tolerance: ends when no entry of the gradient in v is larger.
            max_iterations: of L-BFGS; below `BY_VALUES`, Newton's method goes on.

        Returns:
            {"kernel": G x K, "bias": K}.
        """
        strength = 1 / (inverse_regularisation * (0.5 if self._classes == 2 else 1.0) * self._count)
        transform = None
        if self._gram is not None:
            curvature = (1 - 1 / self._classes) / self._classes  # p (1 - p) where all classes are equally likely
            transform = _transform(self._gram, curvature, strength)
        problem = (self._x_NxG, self._label_N, self._weight_N, transform)
        first = max(tolerance, BY_VALUES)
        self._solution, iterations = _solve(*problem, self._solution, strength, first, max_iterations)
        self.iterations += int(iterations)
        if tolerance < BY_VALUES:
            self._solution, self.gradient = _polish(*problem, self._solution, strength, tolerance)
        if self._basis is None:
            return self._solution
        return self._solution | {"kernel": _product(self._basis, self._solution["kernel"])}


@jax.jit
def predict(solution, x_NxG):
    """The likeliest class of each example."""
    return jnp.argmax(_logits(solution, x_NxG), -1)


@jax.jit
def probabilities(solution, x_NxG):
    """softmax(x W + b): N x K."""
    return jax.nn.softmax(_logits(solution, x_NxG), -1)


def _logits(solution, x_NxG):
    return jnp.matmul(x_NxG, solution["kernel"], precision="highest") + solution["bias"]


def in_their_span(x_NxG):
    """(Q, x Q) where there are fewer examples than features, else (None, x).

    W lies in the span of the examples: N numbers a class instead of G.
    """
    return _rotated(x_NxG) if x_NxG.shape[0] < x_NxG.shape[1] else (None, x_NxG)


@jax.jit
def _rotated(x_NxG):
    """(Q, x Q): an orthonormal basis of the examples' span, G x N, and the examples in it."""
    basis_GxN, triangle_NxN = jnp.linalg.qr(x_NxG.T)
    return basis_GxN, triangle_NxN.T


@jax.jit
def _gram(x_NxG, weight_N):
    weighted_NxG = x_NxG * (weight_N / jnp.sum(weight_N))[:, None]
    return jnp.einsum("ng,nh->gh", weighted_NxG, x_NxG, precision="highest")


@jax.jit
def _transform(gram_GxG, curvature, strength):
    """T, upper triangular, and its inverse's transpose L: T = L^-T with L L^T = c X^T X / M + strength I."""
    identity = jnp.eye(len(gram_GxG))
    # float32 forms the Gram matrix to 1e-6 of its trace's mean; less than that cannot be told from a negative number
    factor = jnp.linalg.cholesky(curvature * gram_GxG + jnp.maximum(strength, 1e-6) * identity)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True).T, factor


_product = functools.partial(jnp.matmul, precision="highest")


def _kernel(point, transform):
    """W = T v."""
    return point["kernel"] if transform is None else _product(transform[0], point["kernel"])


def _point(solution, transform):
    """v, which W = T v."""
    if transform is None:
        return dict(solution)
    return {"kernel": _product(transform[1].T, solution["kernel"]), "bias": solution["bias"]}


def _objective(point, x_NxG, label_N, weight_N, transform, strength):
    kernel = _kernel(point, transform)
    loss_N = optax.softmax_cross_entropy_with_integer_labels(_product(x_NxG, kernel) + point["bias"], label_N)
    return jnp.sum(weight_N / jnp.sum(weight_N) * loss_N) + strength / 2 * jnp.sum(kernel**2)


@jax.jit
def _polish(x_NxG, label_N, weight_N, transform, start, strength, tolerance):
    """Newton's method by conjugate gradients, from nearby: it needs gradients, not values. Ends where rounding does."""
    gradient_of = jax.grad(lambda point: _objective(point, x_NxG, label_N, weight_N, transform, strength))

    def size_of(gradient):
        return optax.tree_utils.tree_norm(gradient)

    def unfinished(carry):
        _, gradient, _, step, improves = carry
        return (optax.tree_utils.tree_norm(gradient, ord="inf") > tolerance) & (step < 30) & improves

    def newton(carry):
        point, gradient, size, step, _ = carry
        curvature = functools.partial(lambda point, v: jax.jvp(gradient_of, (point,), (v,))[1], point)
        towards, _ = jax.scipy.sparse.linalg.cg(curvature, jax.tree.map(jnp.negative, gradient), tol=3e-2, maxiter=200)

        def moved(length):
            return jax.tree.map(lambda v, d: v + length * d, point, towards)

        # along Newton's direction the gradient's length falls at first; how far is not known, so four steps are tried
        sizes_4 = jax.lax.map(lambda length: size_of(gradient_of(moved(length))), LENGTHS)
        best = jnp.argmin(sizes_4)
        better = sizes_4[best] < size
        point = jax.tree.map(lambda new, old: jnp.where(better, new, old), moved(jnp.asarray(LENGTHS)[best]), point)
        return point, gradient_of(point), jnp.minimum(sizes_4[best], size), step + 1, better

    point = _point(start, transform)
    gradient = gradient_of(point)
    point, gradient, _, _, _ = jax.lax.while_loop(
        unfinished, newton, (point, gradient, size_of(gradient), 0, jnp.array(True))
    )
    return {"kernel": _kernel(point, transform), "bias": point["bias"]}, optax.tree_utils.tree_norm(gradient, ord="inf")


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def _solve(x_NxG, label_N, weight_N, transform, start, strength, tolerance, max_iterations):
    def objective(point):
        return _objective(point, x_NxG, label_N, weight_N, transform, strength)

    solver = optax.lbfgs(memory_size=10)
    value_and_gradient = optax.value_and_grad_from_state(objective)

    def unfinished(carry):
        _, _, iteration, size = carry
        return (iteration < max_iterations) & (size > tolerance)

    def step(carry):
        point, state, iteration, _ = carry
        value, gradient = value_and_gradient(point, state=state)
        update, state = solver.update(gradient, state, point, value=value, grad=gradient, value_fn=objective)
        gradient = optax.tree_utils.tree_get(state, "grad")
        return optax.apply_updates(point, update), state, iteration + 1, optax.tree_utils.tree_norm(gradient, ord="inf")

    point = _point(start, transform)
    point, _, iterations, _ = jax.lax.while_loop(unfinished, step, (point, solver.init(point), 0, jnp.inf))
    return {"kernel": _kernel(point, transform), "bias": point["bias"]}, iterations
