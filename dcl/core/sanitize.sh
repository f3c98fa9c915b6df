#!/usr/bin/env bash
# Builds the core and the tests of its headers with AddressSanitizer, UndefinedBehaviorSanitizer and Eigen's assertions, and
# runs both: the tests of the headers (tests/*.cpp), and those of the core from Python.
# Usage: dcl/core/sanitize.sh [python] [arguments of pytest]; needs nanobind and cmeel-eigen beside dcl's requirements.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${1:-$root/.venv/bin/python}
[[ $python == /* ]] || python=$PWD/$python
shift || true
tests=("$@")
# every quick test that says something about the core itself, through it alone or through the layers
((${#tests[@]})) || tests=(tests/core tests/cones tests/kkt/test_inertia.py tests/kkt/test_sparse_systems.py
    tests/program/test_soft_rows.py tests/program/test_random_terms.py tests/program/test_reduction_cones.py
    tests/answers/test_mu.py tests/answers/test_tiny_boxes.py tests/frontends/test_cvxpy_blocks.py tests/solve/test_pool.py
    -m "not slow")
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

# Python keeps memory until it ends, so leaks are looked for in the tests of the headers alone
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 OMP_NUM_THREADS=1
cmake -S "$root/dcl/core" -B "$build/headers" -DPython_EXECUTABLE="$python" -DDCL_CORE_TESTS=ON \
    -DDCL_CORE_SANITIZE=ON -DDCL_CORE_STRICT=ON >"$build/log"
cmake --build "$build/headers" -j2 >>"$build/log" 2>&1 || { cat "$build/log"; exit 1; }
for name in linear_algebra solver cones sparse; do
    "$build/headers/$name"
    echo "$name: $("$build/headers/$name" --list | wc -l) cases passed"
done

cmake -S "$root/dcl/core" -B "$build/cmake" -DPython_EXECUTABLE="$python" \
    -DDCL_CORE_SANITIZE=ON -DDCL_CORE_STRICT=ON >"$build/log"
cmake --build "$build/cmake" -j2 >>"$build/log" 2>&1 || { cat "$build/log"; exit 1; }

# a copy of the package with the sanitized modules, before all others on the path
mkdir -p "$build/tree"
cp -r "$root/dcl" "$root/tests" "$root/pyproject.toml" "$build/tree"
rm -f "$build"/tree/dcl/core/*.so
cp "$build"/cmake/_core*.so "$build/tree/dcl/core"
cd "$build/tree"

export ASAN_OPTIONS=detect_leaks=0
compiler=${CXX:-c++}
LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)" \
    "$python" -m pytest -n 0 -p no:cacheprovider -q -s "${tests[@]}"  # -s: else pytest keeps what the sanitizers say
