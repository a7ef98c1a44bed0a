#!/usr/bin/env bash
# A training run on Cloud TPU VMs, from a queued resource to its end, preemptions included.
#
#   bash launch/tpu_vm/pod.sh run --name=base --zone=us-west4-a --type=v5litepod-256 --spot=1 \
#       -- pretrain --config=imagenet_base --workdir=gs://BUCKET/base --config.data.data_dir=gs://BUCKET/tfds
#
#   create   asks for the TPU (a queued resource; --slices=N for several) and waits until it is there
#   install  copies this checkout to every worker and installs crate-jax[tpu]
#   start    starts the command after -- on every worker; one that fails is started again and goes on where it stopped
#   logs     follows the first worker's log
#   delete   gives everything back
#   run      create, install, start, and then watches: a TPU that was taken away is asked for again
#
# Checkpoints belong in a bucket: a machine that is taken away takes its disk along. With --dry-run every command is
# printed and none is run.
# shellcheck disable=SC2154  # parse_flags sets flag_*
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/command_line.sh
source "$here/../command_line.sh"

[ $# -gt 0 ] || fail "say what to do: create, install, start, logs, delete or run"
action=$1
shift
parse_flags "name zone project= type= slices=1 spot=0 runtime= poll=60" "$@"
where=(--zone="$flag_zone" ${flag_project:+--project="$flag_project"})

# The system image that a type of TPU wants.
runtime() {
    if [ -n "$flag_runtime" ]; then echo "$flag_runtime"; return; fi
    case $flag_type in
        v4-*) echo tpu-ubuntu2204-base ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v6e-*) echo v2-alpha-tpuv6e ;;
        *) fail "--type=$flag_type is none of v4-N, v5litepod-N, v5p-N, v6e-N; name its image with --runtime=..." ;;
    esac
}

# Names of the nodes, one a slice.
nodes() {
    local number
    if [ "$flag_slices" -eq 1 ]; then echo "$flag_name"; return; fi
    for ((number = 0; number < flag_slices; number++)); do echo "$flag_name-$number"; done
}

state() {
    gcloud compute tpus queued-resources describe "$flag_name" "${where[@]}" --format='value(state.state)' 2>/dev/null ||
        echo ABSENT
}

on_every_worker() {
    local node
    for node in $(nodes); do
        step gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$1"
    done
}

create() {
    local image shape=(--node-id="$flag_name")
    image=$(runtime)
    if [ "$flag_slices" -gt 1 ]; then shape=(--node-count="$flag_slices" --node-prefix="$flag_name"); fi
    if [ "$flag_spot" -eq 1 ]; then shape+=(--spot); fi
    step gcloud compute tpus queued-resources create "$flag_name" "${where[@]}" --accelerator-type="$flag_type" \
        --runtime-version="$image" "${shape[@]}"
    [ "$DRY_RUN" -eq 0 ] || return 0
    local now
    until now=$(state) && [ "$now" = ACTIVE ]; do
        case $now in FAILED | SUSPENDED | SUSPENDING) fail "the queued resource $flag_name is $now" ;; esac
        echo "$(date +%T) $flag_name: $now" >&2
        sleep "$flag_poll"
    done
}

install() {
    local archive node
    archive=${TMPDIR:-/tmp}/crate_jax-$flag_name.tar.gz
    step git -C "$here/../.." archive --format=tar.gz --output="$archive" HEAD
    for node in $(nodes); do
        step gcloud compute tpus tpu-vm scp "$archive" "$node:crate_jax.tar.gz" "${where[@]}" --worker=all
    done
    step rm -f "$archive"
    on_every_worker "mkdir -p crate_jax && tar -xzf crate_jax.tar.gz -C crate_jax && cd crate_jax && \
(python3 -m venv .venv || (sudo apt-get update && sudo apt-get install -y python3-venv && python3 -m venv .venv)) && \
.venv/bin/pip install -q -c constraints.txt -e '.[tpu]'"
}

start() {
    [ ${#REST[@]} -gt 0 ] || fail "say what to run after --, such as: -- pretrain --config=imagenet_base --workdir=gs://..."
    on_every_worker "cd crate_jax && bash launch/tpu_vm/keep_running.sh $(quoted "${REST[@]}")"
}

logs() {
    step gcloud compute tpus tpu-vm ssh "$(nodes | head -n 1)" "${where[@]}" --worker=0 \
        --command="tail -n +1 -F crate_jax/run.log"
}

delete() {
    step gcloud compute tpus queued-resources delete "$flag_name" "${where[@]}" --force --quiet
}

# How the command ended, by the last line of the first worker's log; nothing while it runs.
ending() {
    gcloud compute tpus tpu-vm ssh "$(nodes | head -n 1)" "${where[@]}" --worker=0 \
        --command="tail -n 1 crate_jax/run.log" 2>/dev/null | grep '^keep_running: ' || true
}

run() {
    create
    install
    start
    [ "$DRY_RUN" -eq 0 ] || return 0
    local end
    while true; do
        sleep "$flag_poll"
        case $(state) in
            SUSPENDED | SUSPENDING | FAILED | ABSENT)
                echo "$(date +%T) $flag_name was taken away; asking for another" >&2
                delete || true
                create
                install
                start
                continue
                ;;
        esac
        end=$(ending)
        case $end in
            *finished*) echo "$end"; return 0 ;;
            *"gave up"*) fail "$end; see: pod.sh logs" ;;
        esac
    done
}

case $action in
    create | install | start | logs | delete | run) "$action" ;;
    *) fail "there is no action $action; known: create, install, start, logs, delete, run" ;;
esac
