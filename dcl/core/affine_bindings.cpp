// The Python face of affine maps; dcl/core/affine.py says what the addresses mean.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "addresses.hpp"
#include "pullback.hpp"

namespace nb = nanobind;

namespace {

using core::Addresses;
using core::Index;
using core::pointer;

// Address, stride and size of each part.
using Triples = std::vector<std::array<std::int64_t, 3>>;

double* numbers(std::int64_t address) { return static_cast<double*>(pointer(address)); }
const std::int64_t* places(std::int64_t address) { return static_cast<const std::int64_t*>(pointer(address)); }

core::Parts parts_of(const Triples& triples) {
    core::Parts parts;
    for (const auto& [address, stride, size] : triples) parts.push_back({numbers(address), stride, size});
    return parts;
}

// lists: count, addresses of start, place, weight, offset
core::Lists lists_of(const Addresses<5>& lists) {
    return {static_cast<Index>(lists[0]), places(lists[1]), places(lists[2]), numbers(lists[3]), numbers(lists[4])};
}

void assemble(const Addresses<5>& lists, Index batch, const Triples& thetas, std::int64_t data, int threads) {
    const auto parts = parts_of(thetas);
    const nb::gil_scoped_release released;
    core::assemble(lists_of(lists), batch, parts, numbers(data), threads);
}

void transpose(const Addresses<5>& lists, Index batch, const Addresses<2>& y, const Triples& gradients, int threads) {
    const auto parts = parts_of(gradients);
    const nb::gil_scoped_release released;
    core::transpose(lists_of(lists), batch, {numbers(y[0]), y[1], 0}, parts, threads);
}

// entries: numbers of entries in P, A, q, b, d, then the addresses of their places.  point: pairs of x, z, u, w, c; left: int8.
void pull_back(const Addresses<11>& entries, const Addresses<5>& lists, Index batch, const Addresses<10>& point,
               std::int64_t left, const Triples& gradients, int threads) {
    core::Entries at;
    at.P = entries[0], at.A = entries[1], at.q = entries[2], at.b = entries[3], at.has_value = entries[4] != 0;
    at.P_row = places(entries[5]), at.P_column = places(entries[6]);
    at.A_row = places(entries[7]), at.A_column = places(entries[8]);
    at.q_at = places(entries[9]), at.b_at = places(entries[10]);
    const auto part = [&](std::size_t k) { return core::Part{numbers(point[2 * k]), point[2 * k + 1], 0}; };
    const core::AdjointPoint from{part(0), part(1), part(2), part(3), part(4), static_cast<const std::int8_t*>(pointer(left))};
    const auto parts = parts_of(gradients);
    const nb::gil_scoped_release released;
    core::pull_back(at, lists_of(lists), batch, from, parts, threads);
}

}  // namespace

void bind_affine(nb::module_& module) {
    module.def("assemble", &assemble);
    module.def("transpose", &transpose);
    module.def("pull_back", &pull_back);
}
