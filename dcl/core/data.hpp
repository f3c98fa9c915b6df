// The caller's programs, and one of them in the units in which it is solved and checked.
//
//     minimize 1/2 x'Px + q'x   subject to   Ax = b (y),   Gx <= h (z),   lb <= x (z_lb),   x <= ub (z_ub)
//     Px + q + A'y + G'z - z_lb + z_ub = 0,      z, z_lb, z_ub >= 0
//
// These are signs of dcl/program/structure.py for the stacked rows [A; G; -I; I] with right-hand sides [b; h; -lb; ub].  P is
// symmetrized.  A row with an infinite right-hand side binds nothing.  Bounds are never made rows of a matrix.
//
// Units as in dcl/program/scaling.py, powers of two, so that rows of [A; G] and the objective have size one:
//
//     P' = c P,   q' = c q,   C' = E [A; G],   side' = E side:      x' = x,   s' = E s,   z' = c E^-1 z,   mu' = c mu
#pragma once

#include <algorithm>

#include "types.hpp"

namespace core {

// Objectives of one batch that share P are scaled alike unless their sizes differ by more than this (dcl/program/scaling.py).
inline constexpr double same_size = 1024.0;

// One argument of the caller: instance i starts at data + i * stride; stride 0: shared by the batch; no data: absent.
struct Block {
    const void* data = nullptr;
    Index stride = 0;

    bool present() const { return data != nullptr; }
    bool shared() const { return stride == 0; }
};

struct Call {
    Index batch = 0, n = 0, p = 0, m = 0;
    bool single = false;  // the caller's numbers are float32; all computations are in float64
    Block P, q, A, b, G, h, lb, ub;

    Index lower() const { return lb.present() ? n : 0; }
    Index upper() const { return ub.present() ? n : 0; }
    Index general() const { return p + m; }
    Index rows() const { return general() + lower() + upper(); }
};

// `count` numbers of instance i of a block, as float64.
template <class Derived>
void read(const Call& call, const Block& block, Index i, Eigen::MatrixBase<Derived>&& out) {
    if (call.single) {
        const float* at = static_cast<const float*>(block.data) + i * block.stride;
        out = Eigen::Map<const Eigen::MatrixXf>(at, out.rows(), out.cols()).template cast<double>();
    } else {
        const double* at = static_cast<const double*>(block.data) + i * block.stride;
        out = MatrixView(at, out.rows(), out.cols());
    }
}

template <class Derived>
bool all_finite(const Eigen::DenseBase<Derived>& t) {
    return t.size() == 0 || (t.derived().array() * 0.0).sum() == 0.0;
}

// The power of two next to 1 / size, 1 where size is zero.
inline double unit(double size) {
    if (!(size > 0.0) || !std::isfinite(size)) return 1.0;
    int exponent = 0;
    const double fraction = std::frexp(size, &exponent);  // in [1/2, 1)
    const int rounded = fraction >= 0.70710678118654752440 ? exponent : exponent - 1;
    return std::ldexp(1.0, -std::clamp(rounded, -1000, 1000));
}

// P of one instance or of all: symmetrized, not scaled.
struct Curvature {
    Matrix P;
    double size = 0.0;
    bool is_symmetric = true, is_zero = true, is_finite = true;

    void load(const Call& call, Index i) {
        P.resize(call.n, call.n);
        size = 0.0;
        is_symmetric = is_zero = is_finite = true;
        if (!call.P.present()) {
            P.setZero();
            return;
        }
        read(call, call.P, i, P.topLeftCorner(call.n, call.n));
        for (Index j = 0; j < call.n; ++j) {
            for (Index k = j + 1; k < call.n; ++k) {
                const double below = P(k, j), above = P(j, k);
                is_symmetric &= below == above;
                P(k, j) = P(j, k) = 0.5 * below + 0.5 * above;
            }
        }
        size = magnitude(P);
        is_finite = all_finite(P);
        is_zero = size == 0.0;
    }
};

// [A; G] of one instance or of all, scaled to rows of size one: row i is column i of C, and E_i its unit.
struct General {
    Matrix C;
    Vector E;
    bool is_finite = true;

    void load(const Call& call, Index i) {
        C.resize(call.n, call.general());
        E.resize(call.general());
        if (call.p > 0) read(call, call.A, i, C.leftCols(call.p));
        if (call.m > 0) read(call, call.G, i, C.rightCols(call.m));
        is_finite = all_finite(C);
        for (Index k = 0; k < call.general(); ++k) {
            E(k) = unit(magnitude(C.col(k)));
            if (E(k) != 1.0) C.col(k) *= E(k);
        }
    }
};

// One program in its units.  Rows are stacked [A; G; -I; I]; `finite` tells which of them bind something.
struct Program {
    Index n = 0, p = 0, m = 0, lower = 0, upper = 0;
    double c = 1.0;
    const Matrix* P = nullptr;  // scaled by c
    const General* general = nullptr;
    Vector q, side;
    Vector cap;  // of soft.hpp: the most that the multiplier of a row may be, infinite where that is as usual; empty: of all
    std::vector<char> finite;
    bool is_zero = false, is_finite = true;

    Index rows() const { return p + m + lower + upper; }
    // inequality rows that bind something
    Index inequalities() const { return std::count(finite.begin() + p, finite.end(), char{1}); }
    bool binds(Index row) const { return finite[row] != 0; }
    bool is_soft(Index row) const { return cap.size() > 0 && cap(row) < infinity; }
    Index first_lower() const { return p + m; }
    Index first_upper() const { return p + m + lower; }
    bool is_lower(Index row) const { return row >= first_lower() && row < first_upper(); }
    // the variable of a bound's row
    Index variable(Index row) const { return is_lower(row) ? row - first_lower() : row - first_upper(); }
    const Matrix& C() const { return general->C; }

    // q and the right-hand sides of instance i; infinite ones are 1 and not `finite`.
    void load_vectors(const Call& call, Index i) {
        n = call.n, p = call.p, m = call.m, lower = call.lower(), upper = call.upper();
        q.resize(n);
        side.resize(rows());
        finite.assign(static_cast<std::size_t>(rows()), 1);
        read(call, call.q, i, q.head(n));
        if (p > 0) read(call, call.b, i, side.head(p));
        if (m > 0) read(call, call.h, i, side.segment(p, m));
        if (lower > 0) {
            read(call, call.lb, i, side.segment(first_lower(), n));
            side.segment(first_lower(), n) *= -1.0;
        }
        if (upper > 0) read(call, call.ub, i, side.segment(first_upper(), n));
        is_finite = all_finite(q) && all_finite(side.head(p));
        for (Index k = p; k < rows(); ++k) {
            if (side(k) == infinity) {
                side(k) = 1.0;
                finite[k] = 0;
            } else if (!std::isfinite(side(k))) {
                is_finite = false;
            }
        }
    }

    // The vectors in the units (c, E); P and C are made elsewhere, since they may be shared.
    void scale(double objective) {
        c = objective;
        q *= c;
        for (Index k = 0; k < p + m; ++k) {
            if (binds(k)) side(k) *= general->E(k);
        }
    }

    double row_unit(Index row) const { return row < p + m ? general->E(row) : 1.0; }

    // Stacked rows times x; of rows that are not finite, 0.
    void times(ConstVectorRef x, VectorRef out) const {
        out.head(p + m).noalias() = C().transpose() * x;
        if (lower > 0) out.segment(first_lower(), n) = -x;
        if (upper > 0) out.segment(first_upper(), n) = x;
        for (Index k = p; k < rows(); ++k) {
            if (!binds(k)) out(k) = 0.0;
        }
    }

    // out += transposed stacked rows times z; z is zero on rows that are not finite.
    void add_transposed(ConstVectorRef z, VectorRef out) const {
        if (p + m > 0) out.noalias() += C() * z.head(p + m);
        if (lower > 0) out -= z.segment(first_lower(), n);
        if (upper > 0) out += z.segment(first_upper(), n);
    }
};

}  // namespace core
