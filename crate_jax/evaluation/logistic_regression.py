"""Multinomial logistic regression, solved to convergence on the device: preconditioned L-BFGS in float32.

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

TOLERANCE = 1e-4  # of the gradient's largest entry, as scikit-learn's
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
        self._x_NxG = jnp.asarray(x_NxG, jnp.float32)
        self._label_N = jnp.asarray(label_N, jnp.int32)
        self._weight_N = jnp.asarray(weight_N, jnp.float32)
        self._classes, self._count = num_classes, float(np.sum(np.asarray(weight_N)))
        self._gram = _gram(self._x_NxG, self._weight_N) if x_NxG.shape[1] <= LARGEST_FACTORED else None
        self._solution = {"kernel": jnp.zeros((x_NxG.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}
        self.iterations = 0

    def fit(self, inverse_regularisation, *, tolerance=TOLERANCE, max_iterations=1000):
        """Solves at C, from the solution before.

        Args:
            inverse_regularisation: C, as scikit-learn's; of two classes, where it learns one vector instead of two and
                so regularises twice as much, that is followed.
            tolerance: ends when no entry of the gradient in v is larger.
            max_iterations: of L-BFGS.

        Returns:
            {"kernel": G x K, "bias": K}.
        """
        strength = 1 / (inverse_regularisation * (0.5 if self._classes == 2 else 1.0) * self._count)
        transform = None
        if self._gram is not None:
            curvature = (1 - 1 / self._classes) / self._classes  # p (1 - p) where all classes are equally likely
            transform = _transform(self._gram, curvature, strength)
        self._solution, iterations = _solve(
            self._x_NxG, self._label_N, self._weight_N, transform, self._solution, strength, tolerance, max_iterations
        )
        self.iterations += int(iterations)
        return self._solution


@jax.jit
def predict(solution, x_NxG):
    """The likeliest class of each example."""
    return jnp.argmax(jnp.matmul(x_NxG, solution["kernel"], precision="highest") + solution["bias"], -1)


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


@functools.partial(jax.jit, static_argnames=("max_iterations",))
def _solve(x_NxG, label_N, weight_N, transform, start, strength, tolerance, max_iterations):
    share_N = weight_N / jnp.sum(weight_N)
    product = functools.partial(jnp.matmul, precision="highest")

    def kernel_of(point):
        return point["kernel"] if transform is None else product(transform[0], point["kernel"])

    def objective(point):
        kernel = kernel_of(point)
        loss_N = optax.softmax_cross_entropy_with_integer_labels(product(x_NxG, kernel) + point["bias"], label_N)
        return jnp.sum(share_N * loss_N) + strength / 2 * jnp.sum(kernel**2)

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

    point = dict(start)
    if transform is not None:
        point["kernel"] = product(transform[1].T, start["kernel"])
    point, _, iterations, _ = jax.lax.while_loop(unfinished, step, (point, solver.init(point), 0, jnp.inf))
    return {"kernel": kernel_of(point), "bias": point["bias"]}, iterations
