#!/usr/bin/env bash
# A run on TPUs in GKE: a JobSet, by xpk (pip install xpk), on a cluster that `xpk cluster create` made.
#
#   docker build -f launch/gke/Dockerfile -t "$IMAGE" . && docker push "$IMAGE"        IMAGE=REGION-docker.pkg.dev/...
#   CLUSTER=C ZONE=us-west4-a PROJECT=P IMAGE=... NAME=base TYPE=v5litepod-256 bash launch/gke/xpk.sh \
#       pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.data.data_dir=gs://BUCKET/tfds
#   xpk workload list --cluster=C; xpk workload delete --cluster=C --workload=base
#
# SLICES=2 for several slices, RESTARTS=100 at most, DRY_RUN=1 to see the JobSet and create nothing. A pod that is
# preempted (143), or lost a host or stalled (175), restarts the whole set, which resumes from its last checkpoint; exit
# code 1 ends it permanently. Checkpoints belong in a bucket.
set -euo pipefail
: "${CLUSTER:?}" "${ZONE:?}" "${PROJECT:?}" "${IMAGE:?}" "${NAME:?}" "${TYPE:?}"
[ $# -gt 0 ] || { echo "say what to run, such as: pretrain --config=imagenet_base --workdir=gs://BUCKET/base" >&2; exit 1; }

# exec: so that SIGTERM reaches the program, not a shell before it
command="exec crate-jax $(printf '%q ' "$@")"
dry=()
if [ "${DRY_RUN:-0}" -eq 1 ]; then dry=(--dry-run --skip-validation); fi
exec xpk workload create --cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT" --workload="$NAME" \
    --tpu-type="$TYPE" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" --max-restarts="${RESTARTS:-100}" \
    --restart-on-exit-codes=143,175 --termination-grace-period-seconds=120 --command="$command" "${dry[@]}"
