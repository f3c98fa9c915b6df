// The Python face of the cone programs; dcl/core/conic.py says what the addresses mean.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "addresses.hpp"
#include "conic_adjoint.hpp"

namespace nb = nanobind;

namespace {

using core::Addresses;
using core::block;
using core::Index;
using core::pointer;

// Kind, size and count of each block of cones, and the exponents of power cones.
using Blocks = std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t, std::vector<double>>>;

core::Cones cones_of(const Blocks& blocks) {
    core::Cones cones;
    for (const auto& [kind, size, count, exponents] : blocks) {
        cones.add(static_cast<core::Kind>(kind), size, count, exponents);
    }
    return cones;
}

// sizes: batch, n.  data: P, q, A, b, G, h, all float64; A, b: the zero rows, G, h: those of the other cones.
core::ConicCall conic_call(const Addresses<2>& sizes, const Blocks& blocks, const Addresses<12>& data) {
    core::ConicCall call;
    call.cones = cones_of(blocks);
    core::Call& to = call.data;
    to.batch = sizes[0], to.n = sizes[1], to.p = call.cones.zeros, to.m = call.cones.rows - call.cones.zeros;
    core::Block* const arguments[] = {&to.P, &to.q, &to.A, &to.b, &to.G, &to.h};
    for (std::size_t k = 0; k < 6; ++k) *arguments[k] = block(data, k);
    return call;
}

std::unique_ptr<core::ConicHandle> conic_solve(const Addresses<2>& sizes, const Blocks& blocks, const Addresses<12>& data,
                                               const Addresses<6>& start, const Addresses<2>& mu, const Addresses<10>& out,
                                               int threads) {
    const core::ConicCall call = conic_call(sizes, blocks, data);
    const core::ConicStart from{block(start, 0), block(start, 1), block(start, 2)};
    const auto output = [&](std::size_t k, Index size) { return core::Out{pointer(out[k]), size, false}; };
    const core::ConicAnswers to{output(0, call.data.n), output(1, call.data.p), output(2, call.data.m),
                                output(3, call.data.m), output(4, 1),
                                static_cast<double*>(pointer(out[5])), static_cast<std::int8_t*>(pointer(out[6])),
                                static_cast<std::int32_t*>(pointer(out[7])), static_cast<double*>(pointer(out[8])),
                                static_cast<double*>(pointer(out[9]))};
    const nb::gil_scoped_release released;
    return core::solve(call, from, block(mu, 0), to, threads);
}

void conic_adjoint(const core::ConicHandle& handle, const Addresses<2>& sizes, const Blocks& blocks, const Addresses<12>& data,
                   const Addresses<10>& cotangents, const Addresses<12>& gradients, int threads) {
    const core::ConicCall call = conic_call(sizes, blocks, data);
    if (call.data.batch != handle.batch || call.data.n != handle.n || call.cones.rows != handle.cones.rows) {
        throw nb::value_error("the sizes are not those of the handle");
    }
    const core::ConicCotangents from{block(cotangents, 0), block(cotangents, 1), block(cotangents, 2), block(cotangents, 3),
                                     block(cotangents, 4)};
    core::Gradients to;
    core::Out* const outputs[] = {&to.P, &to.q, &to.A, &to.b, &to.G, &to.h};
    for (std::size_t k = 0; k < 6; ++k) {
        *outputs[k] = core::Out{pointer(gradients[2 * k]), static_cast<Index>(gradients[2 * k + 1]), false};
    }
    const nb::gil_scoped_release released;
    core::adjoint(call, handle, from, to, threads);
}

// z = Pi_mu*(v), and D w, of one cone at a time: for the tests that hold the core to dcl/cones.
void conic_project(const Blocks& blocks, double mu, std::int64_t v, std::int64_t w, std::int64_t z, std::int64_t Dw) {
    core::Cones cones = cones_of(blocks);
    const auto vector = [&](std::int64_t address) {
        return Eigen::Map<core::Vector>(static_cast<double*>(pointer(address)), cones.rows);
    };
    const core::Vector at = vector(v);
    auto image = vector(z), product = vector(Dw);
    core::Vector slopes;
    cones.evaluate(at, mu, image);
    product = vector(w);
    cones.to_eigen(product);
    cones.slopes(slopes);
    product = product.cwiseProduct(slopes);
    cones.from_eigen(product);
}

}  // namespace

void bind_conic(nb::module_& module) {
    nb::class_<core::ConicHandle>(module, "ConicHandle");
    module.def("conic_solve", &conic_solve);
    module.def("conic_adjoint", &conic_adjoint);
    module.def("conic_project", &conic_project);
}
