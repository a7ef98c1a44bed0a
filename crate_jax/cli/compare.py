"""One table and one figure of several runs: parameters, arithmetic, speed, loss, probe, kNN, reconstruction.

    crate-jax compare workdirs/a workdirs/b --out=comparison
    crate-jax compare workdirs/crate_vs_vit --out=comparison [--baseline=NAME]

A sweep's workdir stands for its points; runs that differ in their seed alone are one row, with mean and deviation.
Below are differences from the baseline, paired by seed, with 95 % intervals, the claims of analysed runs, and what was
not measured alike (another k, mask ratio, unit of the loss).
Writes comparison.md, comparison.csv and comparison.png. Ratios are to the baseline; --baseline=vit means
photographs+vit for what was trained on photographs, digits+vit for what was trained on digits.
"""


def add_arguments(parser):
    """Flags."""
    parser.add_argument("runs", nargs="+", help="workdirs of runs or sweeps")
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--baseline", help="row that the ratios are to, or a part of its name (default: the first)")


def run(arguments):
    """The command."""
    from crate_jax.sweeps.compare import compare

    print(compare(arguments.runs, arguments.out, arguments.baseline), end="")
