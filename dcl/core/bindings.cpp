// The Python face: addresses and strides as integers, which is 58 us cheaper than arrays.  dcl/core/dense.py says what they mean.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include "addresses.hpp"
#include "given.hpp"
#include "kkt.hpp"
#include "ldl.hpp"
#include "smooth.hpp"
#include "soft.hpp"

namespace nb = nanobind;

void bind_affine(nb::module_& module);
void bind_conic(nb::module_& module);
void bind_smooth(nb::module_& module);

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
                                    const Addresses<8>& start, const Addresses<2>& mu, const Addresses<6>& out, bool keep,
                                    int threads) {
    const core::Call call = call_of(sizes, single, data);
    const core::StartBlocks from{block(start, 0), block(start, 1), block(start, 2), block(start, 3)};
    const auto output = [&](std::size_t k, Index size) { return core::Out{pointer(out[k]), size, single}; };
    const core::Answers to{output(0, call.n), output(1, call.p), output(2, call.m), output(3, call.lower()),
                           output(4, call.upper()), output(5, 1)};
    const nb::gil_scoped_release released;
    return core::solve(call, from, block(mu, 0), to, keep, threads);
}

// sizes and data as for solve, in float64.  out: x, z, z_lb, z_ub, beyond.
void find_cells(const Addresses<4>& sizes, const Addresses<16>& data, const Addresses<2>& cap, const Addresses<5>& out,
                int threads) {
    const core::Call call = call_of(sizes, false, data);
    const auto output = [&](std::size_t k, Index size) { return core::Out{pointer(out[k]), size, false}; };
    const core::CellOut to{output(0, call.n), output(1, call.m), output(2, call.lower()), output(3, call.upper()),
                           static_cast<std::uint8_t*>(pointer(out[4]))};
    const nb::gil_scoped_release released;
    core::find_cells(call, block(cap, 0), to, threads);
}

void check_kept(const core::Handle& handle) {
    if (handle.records.empty() && handle.batch > 0) throw nb::value_error("the handle keeps nothing: solve with keep");
}

// The call that left the handle, with the data at hand now.
core::Call call_again(const core::Handle& handle, const Addresses<4>& sizes, bool single, const Addresses<16>& data) {
    const core::Call call = call_of(sizes, single, data);
    check_kept(handle);
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

void recall(const core::Handle& handle, std::int64_t x, std::int64_t z) {
    check_kept(handle);
    core::recall(handle, static_cast<double*>(pointer(x)), static_cast<double*>(pointer(z)));
}

void report(const core::Handle& handle, std::int64_t out) {
    for (Index i = 0; i < handle.batch; ++i) std::copy_n(handle.reports[i].data(), 7, static_cast<double*>(pointer(out)) + 7 * i);
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
void measure(const Addresses<5>& sizes, const Addresses<5>& patterns, const Addresses<18>& data, const Addresses<5>& out,
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
    t.slack = {numbers(8), stride(8)}, t.cone = index(4);
    t.r_x = output(0, t.n), t.r_z = output(1, t.m), t.s = output(2, t.m), t.residuals = output(3, 4), t.value = output(4, 1);
    const nb::gil_scoped_release released;
    core::measure(t, threads);
}

// Newton's method for programs with smooth terms; dcl/core/smooth.py says what the arguments mean.
void smooth_solve(const Addresses<4>& sizes, const std::vector<std::array<std::int64_t, 2>>& terms, const Addresses<16>& data,
                  const Addresses<6>& tails, const Addresses<2>& start, const Addresses<4>& out, int threads) {
    core::SmoothCall call;
    call.data = call_of(sizes, false, data);
    for (const auto& [kind, size] : terms) {
        call.terms.push_back({static_cast<core::Smooth>(kind), call.tails, size});
        call.tails += size;
    }
    call.C = block(tails, 0), call.d = block(tails, 1), call.lambda = block(tails, 2);
    const core::SmoothAnswers to{static_cast<double*>(pointer(out[0])), static_cast<double*>(pointer(out[1])),
                                 static_cast<std::int8_t*>(pointer(out[2])), static_cast<std::int32_t*>(pointer(out[3]))};
    const nb::gil_scoped_release released;
    core::solve(call, block(start, 0), to, threads);
}

// The sparse factorization; dcl/core/ldl.py says what the arguments mean.
std::shared_ptr<core::LdlAnalysis> analyze(Index order, Index entries, std::int64_t rows, std::int64_t cols) {
    const nb::gil_scoped_release released;
    return std::make_shared<core::LdlAnalysis>(order, entries, static_cast<const std::int64_t*>(pointer(rows)),
                                               static_cast<const std::int64_t*>(pointer(cols)));
}

std::unique_ptr<core::LdlFactor> factor(const std::shared_ptr<core::LdlAnalysis>& analysis, Index batch, std::int64_t values,
                                        Index stride, std::int64_t shift, int threads) {
    const nb::gil_scoped_release released;
    return core::factor(analysis, batch, static_cast<const double*>(pointer(values)), stride,
                        static_cast<const double*>(pointer(shift)), threads);
}

void substitute(const core::LdlFactor& factor, std::int64_t x, Index columns, int threads) {
    const nb::gil_scoped_release released;
    core::solve(factor, static_cast<double*>(pointer(x)), columns, threads);
}

void multiply(const core::LdlAnalysis& analysis, Index batch, std::int64_t values, Index stride, std::int64_t x, std::int64_t y,
              Index columns, int threads) {
    const nb::gil_scoped_release released;
    core::multiply(analysis, batch, static_cast<const double*>(pointer(values)), stride, static_cast<const double*>(pointer(x)),
                   static_cast<double*>(pointer(y)), columns, threads);
}

void row_sizes(const core::LdlAnalysis& analysis, Index batch, std::int64_t values, Index stride, std::int64_t sizes) {
    const nb::gil_scoped_release released;
    for (Index i = 0; i < batch; ++i) {
        analysis.row_sizes(static_cast<const double*>(pointer(values)) + i * stride,
                           static_cast<double*>(pointer(sizes)) + i * analysis.order);
    }
}

}  // namespace

NB_MODULE(CORE_MODULE, module) {
    // handles may outlive the interpreter in a graph of torch: nothing to tell the user
    nb::set_leak_warnings(false);
    nb::class_<core::Handle>(module, "Handle")
        .def_ro("left", &core::Handle::left)
        .def("recall", &recall)
        .def("report", &report);
    module.def("solve", &solve);
    module.def("adjoint", &adjoint);
    module.def("solve_kkt", &solve_kkt);
    module.def("measure", &measure);
    module.def("smooth_solve", &smooth_solve);
    module.def("find_cells", &find_cells);
    nb::class_<core::LdlAnalysis>(module, "LdlAnalysis")
        .def_prop_ro("fill", &core::LdlAnalysis::fill)
        .def_prop_ro("work", &core::LdlAnalysis::work);
    nb::class_<core::LdlFactor>(module, "LdlFactor").def_ro("turned", &core::LdlFactor::turned);
    module.def("analyze", &analyze);
    module.def("factor", &factor);
    module.def("substitute", &substitute);
    module.def("multiply", &multiply);
    module.def("row_sizes", &row_sizes);
    bind_affine(module);
    bind_conic(module);
    bind_smooth(module);
}
