#!/usr/bin/env bash
# From nothing to a trained CRATE-MAE: an environment, data, pre-training on photographs, pictures, a linear probe.
# Minutes on two CPU cores. Run again, it resumes; arguments are passed on to `pretrain`:
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
# glibc keeps the memory of a step in place of returning it to the kernel: docs/speed.md has what that gained
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4294967296}
workdir=${CRATE_JAX_WORKDIR:-workdirs/quickstart}

"$CRATE_JAX_PYTHON" -m crate_jax pretrain --config=quickstart --workdir="$workdir" \
    --config.evaluate_every_steps=750 "$@"
"$CRATE_JAX_PYTHON" -m crate_jax reconstruct --workdir="$workdir" & # beside the probe: each is busy with one core
completing=$!
"$CRATE_JAX_PYTHON" -m crate_jax probe --workdir="$workdir"
wait "$completing"

"$CRATE_JAX_PYTHON" - "$workdir" <<'EOF'
import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
completed, probe = (json.loads((folder / f"{name}.json").read_text()) for name in ("reconstruction", "probe"))
low, high = probe["interval"]
print(f"""
Results
  loss, last of {last["step"]:,} steps       {last["loss"]:.4f}
  loss, held-out images           {completed["masked_mse"]:.4f}
  PSNR, held-out images           {completed["psnr"]:.1f} dB ({completed["masked_psnr"]:.1f} dB over the removed pixels)
  probe, held-out crops           {probe["accuracy"]:.1%} (95 % interval {low:.1%} to {high:.1%})
    the same network untrained    {probe["untrained_accuracy"]:.1%}
    raw pixels                    {probe["raw_pixel_accuracy"]:.1%}

Pictures
  {folder}/figures/reconstruction.png   photographs: original, masked, reconstructed
  {folder}/figures/loss.png             the loss, training and held out
  {folder}/figures/probe.png            the probe""")
EOF
cat <<EOF

Next
  $CRATE_JAX_PYTHON -m crate_jax analyze --workdir=$workdir       what each layer does: report.html
  $CRATE_JAX_PYTHON -m crate_jax reconstruct --workdir=$workdir --images=cat.jpg
  $CRATE_JAX_PYTHON -m tensorboard.main --logdir=$workdir
EOF
