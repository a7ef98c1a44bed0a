"""Names of residuals: what a rematerialised layer saves for its backward pass, beside its input.

    policy = jax.checkpoint_policies.save_only_these_names(*NAMED_RESIDUALS)
    layer = jax.checkpoint(layer, policy=policy)

A name is given outside every `custom_vjp`, to an array that the backward pass reads; a policy does not see inside one.
Everything else is recomputed from the layer's input. With D the width, T the tokens and A the atoms, per token:

    name            saved                                      bytes in bf16     product that is not recomputed
    "compressed"    what compression adds, after its output    2 D               output map, 2 D^2; with a Pallas kernel
                    map                                                          the attention too, 4 T D
    "mapped"        the decoder's linear map                   2 D               the map, 2 D^2
    "inactive"      where ISTA's ReLU is zero, bool            D                 second product of ISTA, 2 D^2
    "error"         x - D a of overcomplete ISTA, all steps    2 D               D a, 2 D A, each
                    but the first

Products that are recomputed, per token, with these names saved:

    MSSA                codes U^T LN(z): 2 D^2;  scores and weighted sum: 4 T D
    MSSA, Pallas        codes: 2 D^2;  the backward kernel computes scores and weighted sum itself: 4 T D
    TSSA, CBSA, grad    codes: 2 D^2;  all of the operator
    ISTA                first product, D x: 2 D^2
    overcomplete ISTA   steps products by D^T: steps * 2 D A
    decoder             MSSA's;  not the linear map

The output map is not recomputed, nor the read-out of overcomplete ISTA (the backward pass does not read its result).
In a rematerialised layer the attention by "recompute" computes the scores twice: choose "xla" there, where the scores
of one layer exist at a time.
"""

from jax.ad_checkpoint import checkpoint_name

NAMED_RESIDUALS = ("compressed", "mapped", "inactive", "error")


def name_residual(x, name):
    """x, marked as worth saving for the backward pass; a no-op outside `jax.checkpoint`.

    Raises:
        ValueError: a name that is none of `NAMED_RESIDUALS`: no policy would save it.
    """
    if name not in NAMED_RESIDUALS:
        raise ValueError(f"residual name {name!r} is none of {', '.join(NAMED_RESIDUALS)}")
    return checkpoint_name(x, name)
