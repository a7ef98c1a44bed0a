#!/usr/bin/env bash
# What launch/slurm/submit.sh queues. SLURM sends SIGTERM two minutes before the end; every process then saves at the
# same step and ends with 143, and the job is queued again. So is one that lost a host (exit code 1), up to ten times.
#SBATCH --output=slurm-%x-%j.txt
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -uo pipefail

# SIGTERM for a preempted job reaches this shell as well; it must outlive the processes to queue the job again.
trap 'true' TERM
srun --kill-on-bad-exit=0 "${CRATE_JAX_VENV:-.venv}/bin/python" -m crate_jax "$@" &
step=$!
wait $step
code=$?
while kill -0 $step 2>/dev/null; do # a signal ends `wait` before the processes end
    wait $step
    code=$?
done
if [ $code -eq 143 ] || { [ $code -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    echo "ended with $code; queued again"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
