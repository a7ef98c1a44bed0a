#!/usr/bin/env bash
# A training run on a SLURM cluster of GPUs, one process a GPU; stopped or preempted, it is queued again and goes on.
#
#   bash launch/slurm/submit.sh --nodes=4 --gpus=8 --time=24:00:00 --partition=P \
#       -- pretrain --config=imagenet_base --workdir=/scratch/base --config.data.data_dir=/scratch/tfds
#
# The environment is the one that launch/environment.sh makes with the extra cuda, in --venv (a folder that all nodes
# see). The workdir, too, must be on a disk that all nodes see. With --dry-run the command is printed and not run.
# shellcheck disable=SC2154  # parse_flags sets flag_*
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/command_line.sh
source "$here/../command_line.sh"

parse_flags "nodes=1 gpus=8 cpus=8 time=24:00:00 partition= account= name=crate-jax venv=.venv" "$@"
[ ${#REST[@]} -gt 0 ] || fail "say what to run after --, such as: -- pretrain --config=imagenet_base --workdir=..."
step sbatch --job-name="$flag_name" --nodes="$flag_nodes" --ntasks-per-node="$flag_gpus" --gpus-per-node="$flag_gpus" \
    --cpus-per-task="$flag_cpus" --time="$flag_time" ${flag_partition:+--partition="$flag_partition"} \
    ${flag_account:+--account="$flag_account"} --export=ALL,CRATE_JAX_VENV="$flag_venv" "$here/job.sh" "${REST[@]}"
