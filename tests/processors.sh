#!/usr/bin/env bash
# The quick tests with the kernels that torch, NumPy, SciPy, SCS and the C library use on other processors.
#
#     tests/processors.sh [PYTEST OPTIONS]        e.g. tests/processors.sh -n 1 -k atoms
#
# A processor can run the kernels of its predecessors: the settings below need x86-64 with AVX2. What is said in front
# of each run is what the libraries report, so that a setting without effect is seen. Exit status: 0 only if all pass.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}

report='
import math, struct, zlib, numpy, scipy.linalg, scs, threadpoolctl, torch
blas = {i["filepath"].split("/")[-2]: i["architecture"] for i in threadpoolctl.threadpool_info() if "architecture" in i}
libm = zlib.crc32(struct.pack("5000d", *(math.exp(1e-3 * k) for k in range(5000))))
print("   torch", torch.backends.cpu.get_cpu_capability(), blas, f"exp {libm:08x}")
'
failed=()
while read -r name settings; do
    echo "== $name: ${settings:-as it is}"
    # shellcheck disable=SC2086 -- one setting a word
    env $settings OMP_NUM_THREADS=1 "$python" -c "$report"
    # shellcheck disable=SC2086
    env $settings OMP_NUM_THREADS=1 "$python" -m pytest -m "not slow" -q "$@" </dev/null | tail -n 25 || failed+=("$name")
done <<'SETTINGS'
native
torch-default ATEN_CPU_CAPABILITY=default
torch-avx2 ATEN_CPU_CAPABILITY=avx2
haswell OPENBLAS_CORETYPE=Haswell
nehalem OPENBLAS_CORETYPE=Nehalem MKL_CBWR=COMPATIBLE
libm GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F
SETTINGS
if ((${#failed[@]})); then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo "all passed"
