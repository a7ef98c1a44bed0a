# shellcheck shell=bash disable=SC2034  # CRATE_JAX_PYTHON is for the script that sources it
# Makes the virtual environment that the scripts beside this file run in; sourced, not run.
#
#   make_environment EXTRAS   e.g. "cpu" or "cpu,torch,dev"; twice is safe, and quick when nothing has changed
#
# CRATE_JAX_VENV names another folder for it, PYTHON another interpreter (3.11 to 3.13).

make_environment() {
    local extras=$1 root venv stamp wanted
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    venv=${CRATE_JAX_VENV:-$root/.venv}
    python=${PYTHON:-$(find_python)} || return 1
    if [ ! -x "$venv/bin/python" ]; then
        echo "making $venv with $("$python" --version)" >&2
        "$python" -m venv "$venv" || {
            echo "launch: $python could not make a virtual environment; on Debian, apt install python3-venv" >&2
            return 1
        }
    fi
    stamp=$venv/installed-$extras
    wanted=$(cat "$root/setup.py" "$root/constraints.txt" | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing crate-jax[$extras] and what it needs (a minute or two the first time)" >&2
        newer_pip "$venv/bin/python"
        # --no-compile: Python compiles what it imports, a small part of 23,000 files
        # -qq: errors only, no warnings of what builds the package
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile \
            --constraint "$root/constraints.txt" --editable "${root}[$extras]" || {
            echo "launch: the installation failed; see pip's message above" >&2
            return 1
        }
        if [[ ,$extras, == *,onnx,* ]]; then # what it requires would replace Orbax, and is not used
            "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-compile --no-deps \
                --constraint "$root/constraints.txt" jax2onnx || return 1
        fi
        echo "$wanted" >"$stamp"
    fi
    CRATE_JAX_PYTHON=$venv/bin/python
}

# An old pip does too, but takes 70 seconds of CPU instead of 27 to find out what to install for the tests.
newer_pip() {
    "$1" -m pip install -qq --disable-pip-version-check "pip>=25.1" || true
}

# The first Python that is new enough and not too new.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    echo "launch: no Python 3.11, 3.12 or 3.13 was found; install one, or name it: PYTHON=/path/to/python3.12" >&2
    return 1
}
