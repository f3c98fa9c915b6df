// Affine maps from a batch of parameters to the data of its programs, and the transposes of their linear parts.
//
//     data = c + M u,     u = [theta_1; theta_2; ...]            u~ = M' y
//
// M is sparse.  Each is a sum over a short list, of the entries of a row and of those of a column, so both are gathered and
// nothing is scattered:  t_k = c_k + sum of w_e from[e] over the list of k.  Most lists have one entry.
#pragma once

#include <algorithm>

#include "pool.hpp"

namespace core {

// Instance i of some numbers, at data + i * stride; stride 0: one for the batch.
struct Part {
    double* data = nullptr;
    Index stride = 0, size = 0;

    double* at(Index i) const { return data + i * stride; }
    bool shared() const { return stride == 0; }
};
using Parts = std::vector<Part>;

// A sparse matrix by lists: list k has the entries start[k] .. start[k + 1], at `place` with `weight` (no data: all 1).
// offset: c, no data for 0.
struct Lists {
    Index count = 0;
    const std::int64_t* start = nullptr;
    const std::int64_t* place = nullptr;
    const double* weight = nullptr;
    const double* offset = nullptr;

    void apply(const double* from, double* to) const {
        for (Index k = 0; k < count; ++k) {
            double sum = offset != nullptr ? offset[k] : 0.0;
            for (std::int64_t e = start[k]; e < start[k + 1]; ++e) {
                sum += weight != nullptr ? weight[e] * from[place[e]] : from[place[e]];
            }
            to[k] = sum;
        }
    }
};

// The parts of one instance side by side: `buffer`, or the part itself where there is one.
inline const double* side_by_side(const Parts& parts, Index i, std::vector<double>& buffer) {
    if (parts.size() == 1) return parts[0].at(i);
    buffer.clear();
    for (const Part& part : parts) buffer.insert(buffer.end(), part.at(i), part.at(i) + part.size);
    return buffer.data();
}

// Data (batch, M.count) of parameters, one row if they are all shared: then batch is 1.
inline void assemble(const Lists& M, Index batch, const Parts& thetas, double* data, int threads) {
    Pool::run(batch, threads, [&](Index i, int) {
        thread_local std::vector<double> buffer;
        M.apply(side_by_side(thetas, i, buffer), data + i * M.count);
    });
}

// Gradients of the parts, which are all of u, for rows of M' y: row(i, out) writes that of instance i, of `width` numbers.
// A part that is shared gets the sum over the batch, in an order that no thread changes.
template <class Row>
void distribute(Index batch, Index width, const Parts& to, int threads, Row&& row) {
    const bool sums = std::any_of(to.begin(), to.end(), [](const Part& part) { return part.shared(); });
    const bool direct = to.size() == 1 && !sums;
    std::vector<double> all(sums ? static_cast<std::size_t>(batch * width) : 0);
    Pool::run(batch, threads, [&](Index i, int) {
        if (direct) return row(i, to[0].at(i));
        thread_local std::vector<double> buffer;
        buffer.resize(static_cast<std::size_t>(width));
        double* const out = sums ? all.data() + i * width : buffer.data();
        row(i, out);
        Index first = 0;
        for (const Part& part : to) {
            if (!part.shared()) std::copy_n(out + first, part.size, part.at(i));
            first += part.size;
        }
    });
    Index first = 0;
    for (const Part& part : to) {
        if (part.shared()) {
            Eigen::Map<Vector> total(part.data, part.size);
            total.setZero();
            for (Index i = 0; i < batch; ++i) total += VectorView(all.data() + i * width + first, part.size);
        }
        first += part.size;
    }
}

// M'y for y (batch, .): the lists are those of the columns of M.
inline void transpose(const Lists& columns, Index batch, const Part& y, const Parts& to, int threads) {
    distribute(batch, columns.count, to, threads, [&](Index i, double* out) { columns.apply(y.at(i), out); });
}

}  // namespace core
