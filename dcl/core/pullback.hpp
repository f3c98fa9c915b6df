// Gradients in the parameters from the adjoint solution (u, w) at (x, z), on the entries of the data that a parameter touches:
//
//     dP_ij = -u_i x_j + c x_i x_j / 2      dA_ij = -(z_i u_j + w_i x_j)      dq = -u + c x      db = w      dd = c
//
// for the cotangent c of the value, w here without its part: w - c z (envelope theorem).  These side by side are y, and the
// gradient is M'y with the M of affine.hpp.  dcl/program/reduction/pullback.py is the Python face.
#pragma once

#include "affine.hpp"

namespace core {

// Places of entries of the data: of P and A rows and columns, of q and b one number each; has_value: d is one of them.
struct Entries {
    Index P = 0, A = 0, q = 0, b = 0;
    const std::int64_t *P_row = nullptr, *P_column = nullptr, *A_row = nullptr, *A_column = nullptr, *q_at = nullptr,
                       *b_at = nullptr;
    bool has_value = false;

    Index count() const { return P + A + q + b + (has_value ? 1 : 0); }
};

// x, u: of n numbers, z, w: of m; c (batch,), no data for 0.  left: not zero where the gradient is to be zero; may be no data.
struct AdjointPoint {
    Part x, z, u, w, c;
    const std::int8_t* left = nullptr;
};

// y of instance i
inline void entries_of(const Entries& entries, const AdjointPoint& at, Index i, double* y) {
    const double *x = at.x.at(i), *z = at.z.at(i), *u = at.u.at(i), *w = at.w.at(i);
    const double c = at.c.data != nullptr ? *at.c.at(i) : 0.0;
    for (Index k = 0; k < entries.P; ++k) {
        const auto row = entries.P_row[k];
        *y++ = -(u[row] - 0.5 * c * x[row]) * x[entries.P_column[k]];
    }
    for (Index k = 0; k < entries.A; ++k) {
        const auto row = entries.A_row[k], column = entries.A_column[k];
        *y++ = -(z[row] * u[column] + (w[row] - c * z[row]) * x[column]);
    }
    for (Index k = 0; k < entries.q; ++k) *y++ = c * x[entries.q_at[k]] - u[entries.q_at[k]];
    for (Index k = 0; k < entries.b; ++k) *y++ = w[entries.b_at[k]] - c * z[entries.b_at[k]];
    if (entries.has_value) *y = c;
}

inline void pull_back(const Entries& entries, const Lists& columns, Index batch, const AdjointPoint& at, const Parts& to,
                      int threads) {
    distribute(batch, columns.count, to, threads, [&](Index i, double* out) {
        if (at.left != nullptr && at.left[i] != 0) {
            std::fill_n(out, columns.count, 0.0);
            return;
        }
        thread_local std::vector<double> y;
        y.resize(static_cast<std::size_t>(entries.count()));
        entries_of(entries, at, i, y.data());
        columns.apply(y.data(), out);
    });
}

}  // namespace core
