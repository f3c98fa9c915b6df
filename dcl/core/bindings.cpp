#include <nanobind/nanobind.h>
#include <Eigen/Core>

NB_MODULE(CORE_MODULE, m) {
    m.def("version", [] { return EIGEN_MINOR_VERSION; });
}
