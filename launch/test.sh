#!/usr/bin/env bash
# Lint, types and every test, in an environment of its own making. Arguments are passed on to pytest:
#
#   bash launch/test.sh tests/operators -k ista
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
make_environment cpu,tpu,tensorflow,dev,notebook,docs,torch
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2
"$CRATE_JAX_PYTHON" -m ruff check .
"$CRATE_JAX_PYTHON" -m ruff format --check .
"$CRATE_JAX_PYTHON" -m mypy
"$CRATE_JAX_PYTHON" -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
