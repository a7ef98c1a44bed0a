#!/usr/bin/env bash
# On each worker, started by pod.sh in the checkout: runs a crate-jax command until it is through. One that was told to
# stop, or lost a host, is started again and goes on where it stopped; five failures within a minute each are a mistake,
# not bad luck. The log's last line says how it ended.
#
#   bash launch/tpu_vm/keep_running.sh pretrain --config=imagenet_base --workdir=gs://BUCKET/base
set -uo pipefail
python=${CRATE_JAX_PYTHON:-.venv/bin/python} pause=${CRATE_JAX_PAUSE:-10}

keep_running() {
    local quick=0 begin
    while true; do
        begin=$SECONDS
        if "$python" -m crate_jax "$@"; then
            echo "keep_running: finished"
            return 0
        fi
        if [ $((SECONDS - begin)) -lt 60 ]; then quick=$((quick + 1)); else quick=0; fi
        if [ $quick -ge 5 ]; then
            echo "keep_running: gave up after five quick failures"
            return 1
        fi
        sleep "$pause"
    done
}

# The one before, with all it started, makes room.
if [ -s run.pid ]; then kill -- "-$(cat run.pid)" 2>/dev/null && sleep "$pause"; fi
if [ "${CRATE_JAX_DETACHED:-0}" -eq 0 ]; then
    CRATE_JAX_DETACHED=1 nohup setsid bash "${BASH_SOURCE[0]}" "$@" >run.log 2>&1 </dev/null &
    echo $! >run.pid
else
    keep_running "$@"
fi
