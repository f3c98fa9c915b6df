#!/usr/bin/env bash
# Builds the core with AddressSanitizer, UndefinedBehaviorSanitizer and Eigen's assertions, and runs its tests with it.
# Usage: dcl/core/sanitize.sh [python] [arguments of pytest]; needs nanobind and cmeel-eigen beside dcl's requirements.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${1:-$root/.venv/bin/python}
[[ $python == /* ]] || python=$PWD/$python
shift || true
tests=("$@")
((${#tests[@]})) || tests=(tests/core/test_core.py tests/core/test_core_contract.py tests/cones/test_core_cones.py tests/core/test_conic_contract.py -m "not slow")
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

cmake -S "$root/dcl/core" -B "$build/cmake" -DPython_EXECUTABLE="$python" \
    -DDCL_CORE_SANITIZE=ON -DDCL_CORE_STRICT=ON >"$build/log"
cmake --build "$build/cmake" >>"$build/log" || { cat "$build/log"; exit 1; }

# a copy of the package with the sanitized modules, before all others on the path
mkdir -p "$build/tree"
cp -r "$root/dcl" "$root/tests" "$root/pyproject.toml" "$build/tree"
rm -f "$build"/tree/dcl/core/*.so
cp "$build"/cmake/_core*.so "$build/tree/dcl/core"
cd "$build/tree"

# Python keeps memory until it ends, so leaks are not looked for
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 OMP_NUM_THREADS=1
compiler=${CXX:-c++}
LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)" \
    "$python" -m pytest -n 0 -p no:cacheprovider -q -s "${tests[@]}"  # -s: else pytest keeps what the sanitizers say
