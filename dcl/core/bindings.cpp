// The Python face: addresses and strides as integers, which is 58 us cheaper than arrays.  dcl/core/dense.py says what they mean.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/unique_ptr.h>

#include "addresses.hpp"
#include "kkt.hpp"

namespace nb = nanobind;

void bind_conic(nb::module_& module);

namespace {

using core::Addresses;
using core::block;
using core::Index;
using core::pointer;

core::Call call_of(const Addresses<4>& sizes, bool single, const Addresses<16>& data) {
    core::Call call;
    call.batch = sizes[0], call.n = sizes[1], call.p = sizes[2], call.m = sizes[3];
    call.single = single;
    core::Block* const blocks[] = {&call.P, &call.q, &call.A, &call.b, &call.G, &call.h, &call.lb, &call.ub};
    for (std::size_t k = 0; k < 8; ++k) *blocks[k] = block(data, k);
    return call;
}

std::unique_ptr<core::Handle> solve(const Addresses<4>& sizes, bool single, const Addresses<16>& data,
                                    const Addresses<8>& start, const Addresses<2>& mu, const Addresses<11>& out,
                                    int threads) {
    const core::Call call = call_of(sizes, single, data);
    const core::StartBlocks from{block(start, 0), block(start, 1), block(start, 2), block(start, 3)};
    const auto output = [&](std::size_t k, Index size) { return core::Out{pointer(out[k]), size, single}; };
    const core::Answers to{output(0, call.n), output(1, call.p), output(2, call.m), output(3, call.lower()),
                           output(4, call.upper()), output(5, 1),
                           static_cast<double*>(pointer(out[6])), static_cast<std::int8_t*>(pointer(out[7])),
                           static_cast<std::int32_t*>(pointer(out[8])), static_cast<double*>(pointer(out[9])),
                           static_cast<double*>(pointer(out[10]))};
    const nb::gil_scoped_release released;
    return core::solve(call, from, block(mu, 0), to, threads);
}

// The call that left the handle, with the data at hand now.
core::Call call_again(const core::Handle& handle, const Addresses<4>& sizes, bool single, const Addresses<16>& data) {
    const core::Call call = call_of(sizes, single, data);
    if (call.batch != handle.batch || call.n != handle.n || call.p != handle.p || call.m != handle.m ||
        call.lower() != handle.lower || call.upper() != handle.upper) {
        throw nb::value_error("the sizes are not those of the handle");
    }
    return call;
}

void solve_kkt(const core::Handle& handle, const Addresses<4>& sizes, bool single, const Addresses<16>& data, bool adjoint,
               std::int64_t first, std::int64_t second, int threads) {
    const core::Call call = call_again(handle, sizes, single, data);
    const nb::gil_scoped_release released;
    core::solve_kkt(call, handle, adjoint, static_cast<double*>(pointer(first)), static_cast<double*>(pointer(second)), threads);
}

void adjoint(const core::Handle& handle, const Addresses<4>& sizes, bool single, const Addresses<16>& data,
             const Addresses<12>& cotangents, const Addresses<16>& gradients, int threads) {
    const core::Call call = call_again(handle, sizes, single, data);
    const core::Cotangents from{block(cotangents, 0), block(cotangents, 1), block(cotangents, 2),
                                block(cotangents, 3), block(cotangents, 4), block(cotangents, 5)};
    const auto gradient = [&](std::size_t k) {
        const core::Block at = block(gradients, k);
        return core::Out{pointer(gradients[2 * k]), at.stride, single};
    };
    const core::Gradients to{gradient(0), gradient(1), gradient(2), gradient(3),
                             gradient(4), gradient(5), gradient(6), gradient(7)};
    const nb::gil_scoped_release released;
    core::adjoint(call, handle, from, to, threads);
}

}  // namespace

NB_MODULE(CORE_MODULE, module) {
    // handles may outlive the interpreter in a graph of torch: nothing to tell the user
    nb::set_leak_warnings(false);
    nb::class_<core::Handle>(module, "Handle");
    module.def("solve", &solve);
    module.def("adjoint", &adjoint);
    module.def("solve_kkt", &solve_kkt);
    bind_conic(module);
}
