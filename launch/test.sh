#!/usr/bin/env bash
# Lint, types and every test, in an environment of its own making. Arguments are passed on to pytest:
#
#   bash launch/test.sh tests/operators -k ista
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
make_environment cpu,tpu,tensorflow,dev,notebook,docs,torch,onnx
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2
"$CRATE_JAX_PYTHON" -m ruff check .
"$CRATE_JAX_PYTHON" -m ruff format --check .
# types are checked beside the tests: mypy has one thread, and what it says comes last
types=$(mktemp)
trap 'rm -f "$types"' EXIT
"$CRATE_JAX_PYTHON" -m mypy >"$types" 2>&1 &
checking=$!
ended=0
"$CRATE_JAX_PYTHON" -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@" || ended=$?
wait "$checking" || ended=1
cat "$types"
exit "$ended"
