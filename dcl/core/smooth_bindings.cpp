// The Python face of programs with smooth terms; dcl/core/smooth.py says what the arguments mean.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "addresses.hpp"
#include "smooth_error.hpp"

namespace nb = nanobind;

namespace {

using core::Addresses;
using core::block;
using core::Index;
using core::pointer;

// sizes, data: as for solve, in float64.  points: pairs of C, d, lambda, x, y, z, z_lb, z_ub, and of what to add to the residuals
// of x, rows and u.  alpha: of the terms, or nothing; units: pairs of those of cones and of the objective.  out: (batch, 4).
void smooth_errors(const Addresses<4>& sizes, const std::vector<std::array<std::int64_t, 2>>& terms, const Addresses<16>& data,
                   const Addresses<22>& points, double refined, std::int64_t alpha, const Addresses<4>& units, std::int64_t out,
                   int threads) {
    core::Call call;
    call.batch = sizes[0], call.n = sizes[1], call.p = sizes[2], call.m = sizes[3];
    core::Block* const blocks[] = {&call.P, &call.q, &call.A, &call.b, &call.G, &call.h, &call.lb, &call.ub};
    for (std::size_t k = 0; k < 8; ++k) *blocks[k] = block(data, k);
    std::vector<core::SmoothTerm> list;
    Index tails = 0;
    for (const auto& [kind, size] : terms) {
        list.push_back({static_cast<core::Smooth>(kind), tails, size});
        tails += size;
    }
    core::SmoothPoints at;
    core::Block* const parts[] = {&at.C,    &at.d,    &at.lambda, &at.x,          &at.y,      &at.z,
                                  &at.z_lb, &at.z_ub, &at.noise,  &at.noise_rows, &at.noise_u};
    for (std::size_t k = 0; k < 11; ++k) *parts[k] = block(points, k);
    at.refined = refined;
    const core::SmoothUnits scales{static_cast<const double*>(pointer(alpha)), block(units, 0), block(units, 1)};
    const nb::gil_scoped_release released;
    core::bound_errors(call, list, tails, at, scales, static_cast<double*>(pointer(out)), threads);
}

}  // namespace

void bind_smooth(nb::module_& module) { module.def("smooth_errors", &smooth_errors); }
