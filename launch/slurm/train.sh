#!/usr/bin/env bash
# A run on a SLURM cluster of GPUs, one process per GPU. From the root of a checkout that all nodes see, with the
# environment of launch/environment.sh (extra cuda) in .venv:
#
#   sbatch --nodes=4 --partition=P launch/slurm/train.sh \
#       pretrain --config=imagenet_base --workdir=/scratch/base --config.data.data_dir=/scratch/tfds
#
# Any line below can be overridden so. SLURM sends SIGTERM two minutes before the end; every process then saves at the
# same step and ends with 143, and the job is queued again. So is one that lost a host or stalled (175), ten times at
# most. Exit code 1 is permanent. The workdir is on a disk that all nodes see, or in a bucket.
#SBATCH --job-name=crate-jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=slurm-%x-%j.txt
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -uo pipefail

# SIGTERM for a preempted job reaches this shell as well; it must outlive the processes to queue the job again.
trap 'true' TERM
# srun does not take --cpus-per-task over from sbatch
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" \
    "${CRATE_JAX_PYTHON:-.venv/bin/python}" -m crate_jax "$@" &
step=$!
wait $step
code=$?
while kill -0 $step 2>/dev/null; do # a signal ends `wait` before the processes end
    wait $step
    code=$?
done

lost="slurm-${SLURM_JOB_ID}.lost" # a line for each time a host was lost
if [ $code -eq 175 ]; then date >>"$lost"; fi
if [ $code -eq 143 ] || { [ $code -eq 175 ] && [ "$(wc -l <"$lost")" -le 10 ]; }; then
    echo "ended with $code; queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
