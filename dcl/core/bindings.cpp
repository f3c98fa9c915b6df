// The Python face: addresses and strides as integers, which is 58 us cheaper than arrays.  dcl/core/dense.py says what they mean.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/unique_ptr.h>

#include <array>

#include "given.hpp"
#include "kkt.hpp"

namespace nb = nanobind;

namespace {

using core::Index;
template <std::size_t size>
using Addresses = std::array<std::int64_t, size>;

void* pointer(std::int64_t address) { return reinterpret_cast<void*>(static_cast<std::intptr_t>(address)); }

// The k-th pair (address, stride).
template <std::size_t size>
core::Block block(const Addresses<size>& pairs, std::size_t k) {
    return {pointer(pairs[2 * k]), static_cast<Index>(pairs[2 * k + 1])};
}

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

// sizes: batch, n, m, nonzeros of P and of A.  patterns: rows and columns of P, of A.  data: pairs of P, A, q, b, x, z, mu, holds.
// out: r_x, r_z, s, residuals, value.
void measure(const Addresses<5>& sizes, const Addresses<4>& patterns, const Addresses<16>& data, const Addresses<5>& out,
             int threads) {
    const auto index = [&](std::size_t k) { return static_cast<const std::int64_t*>(pointer(patterns[k])); };
    const auto numbers = [&](std::size_t k) { return static_cast<const double*>(pointer(data[2 * k])); };
    const auto stride = [&](std::size_t k) { return static_cast<Index>(data[2 * k + 1]); };
    const auto output = [&](std::size_t k, Index size) {
        return core::Strided<double>{static_cast<double*>(pointer(out[k])), size};
    };
    core::Given t;
    t.batch = sizes[0], t.n = sizes[1], t.m = sizes[2];
    t.P = {index(0), index(1), static_cast<Index>(sizes[3]), numbers(0), stride(0)};
    t.A = {index(2), index(3), static_cast<Index>(sizes[4]), numbers(1), stride(1)};
    t.q = {numbers(2), stride(2)}, t.b = {numbers(3), stride(3)}, t.x = {numbers(4), stride(4)}, t.z = {numbers(5), stride(5)};
    t.mu = {numbers(6), stride(6)};
    t.holds = {static_cast<const std::uint8_t*>(pointer(data[14])), stride(7)};
    t.r_x = output(0, t.n), t.r_z = output(1, t.m), t.s = output(2, t.m), t.residuals = output(3, 4), t.value = output(4, 1);
    const nb::gil_scoped_release released;
    core::measure(t, threads);
}

}  // namespace

NB_MODULE(CORE_MODULE, module) {
    // handles may outlive the interpreter in a graph of torch: nothing to tell the user
    nb::set_leak_warnings(false);
    nb::class_<core::Handle>(module, "Handle");
    module.def("solve", &solve);
    module.def("adjoint", &adjoint);
    module.def("solve_kkt", &solve_kkt);
    module.def("measure", &measure);
}
