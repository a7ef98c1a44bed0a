#!/usr/bin/env bash
# From nothing to a trained CRATE-MAE: an environment, data, pre-training on photographs, pictures, a linear probe.
# Minutes on two CPU cores. Run again, it goes on where it stopped; arguments are passed on to `pretrain`:
#
#   bash launch/quickstart.sh --config.seed=1
#
# CRATE_JAX_WORKDIR names another folder than workdirs/quickstart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
make_environment cpu
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} TF_CPP_MIN_LOG_LEVEL=2
workdir=${CRATE_JAX_WORKDIR:-workdirs/quickstart}

"$CRATE_JAX_PYTHON" -m crate_jax pretrain --config=quickstart --workdir="$workdir" "$@"
"$CRATE_JAX_PYTHON" -m crate_jax reconstruct --workdir="$workdir"
"$CRATE_JAX_PYTHON" -m crate_jax probe --workdir="$workdir"

cat <<EOF

Where to look
  $workdir/figures/reconstruction.png   held-out photographs: original, masked, reconstructed
  $workdir/figures/loss.png             the loss curve
  $workdir/probe.json                   the probe's numbers, as printed above
  $CRATE_JAX_PYTHON -m tensorboard.main --logdir $workdir
EOF
