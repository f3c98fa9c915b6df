// Which of the builds of the core can this processor run? A module of its own, for the oldest processor.
#include <nanobind/nanobind.h>

NB_MODULE(_core_cpu, module) {
    module.def("runs_v3", [] {
#if defined(__x86_64__) && defined(__GNUC__)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2");
#else
        return false;
#endif
    });
}
