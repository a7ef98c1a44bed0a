#!/usr/bin/env bash
# A training run on TPUs in GKE: a JobSet, by xpk (pip install xpk), on a cluster that xpk made.
#
#   bash launch/gke/jobset.sh image --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/crate-jax
#   bash launch/gke/jobset.sh submit --cluster=C --name=base --type=v5litepod-256 --image=REGION-docker.../crate-jax \
#       -- pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.data.data_dir=gs://BUCKET/tfds
#
#   image    builds the image from this checkout and pushes it
#   submit   creates the workload; a pod that is preempted or lost is started again, with all others, and goes on
#   list     what runs on the cluster
#   delete   ends the workload
#
# Checkpoints belong in a bucket. With --dry-run every command is printed and none is run.
# shellcheck disable=SC2154  # parse_flags sets flag_*
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/command_line.sh
source "$here/../command_line.sh"

[ $# -gt 0 ] || fail "say what to do: image, submit, list or delete"
action=$1
shift
case $action in
    image)
        parse_flags "image" "$@"
        step docker build --file "$here/Dockerfile" --tag "$flag_image" "$here/../.."
        step docker push "$flag_image"
        exit
        ;;
    submit) parse_flags "cluster name type image slices=1 restarts=100 zone= project=" "$@" ;;
    list) parse_flags "cluster zone= project=" "$@" ;;
    delete) parse_flags "cluster name zone= project=" "$@" ;;
    *) fail "there is no action $action; known: image, submit, list, delete" ;;
esac
where=(--cluster="$flag_cluster" ${flag_zone:+--zone="$flag_zone"} ${flag_project:+--project="$flag_project"})

case $action in
    submit)
        [ ${#REST[@]} -gt 0 ] || fail "say what to run after --, such as: -- pretrain --config=imagenet_base --workdir=gs://..."
        step xpk workload create "${where[@]}" --workload="$flag_name" --tpu-type="$flag_type" \
            --num-slices="$flag_slices" --docker-image="$flag_image" --max-restarts="$flag_restarts" \
            --command="crate-jax $(quoted "${REST[@]}")"
        ;;
    list) step xpk workload list "${where[@]}" ;;
    delete) step xpk workload delete "${where[@]}" --workload="$flag_name" ;;
esac
