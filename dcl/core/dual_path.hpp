// The central path where P > 0, in the multipliers of the rows R of elimination.hpp alone: damped Newton on
//
//     f(v) = A_i x + s - side,    R x = a_0 - N w,    w = z at the upper, -z at the lower side of a row
//
// over the inequality rows A_i of path.hpp, with z and s those of v; x minimizes the Lagrangian, so Px + q + A'z = 0 and Ax = b
// hold throughout.  With W = z / s of both sides of a row together, t = W f with the sign of its side, and dw = W^(1/2) g,
//
//     (I + W^(1/2) N W^(1/2)) g = W^(-1/2) t,    dv = (A_i dx + f) / (1 - D),  1 - D = s / (z + s)
//
// one Cholesky factorization of the size of R, and nothing of the size of x, where condensed.hpp needs one of size n and the matrix
// to be formed.
#pragma once

#include "dual.hpp"

namespace core {

// z and s of v at mu; z = v and s = 0 on equalities, both 0 on rows that bind nothing.
inline void take_halves(const Program& program, const Vector& v, double mu, Vector& z, Vector& s) {
    const Index rows = program.rows(), p = program.p;
    z.resize(rows);
    s.resize(rows);
    z.head(p) = v.head(p);
    s.head(p).setZero();
    for (Index i = p; i < rows; ++i) {
        if (!program.binds(i)) {
            z(i) = s(i) = 0.0;
            continue;
        }
        // the smaller of the two would cancel
        const double large = 0.5 * (std::abs(v(i)) + std::sqrt(v(i) * v(i) + 4.0 * mu));
        z(i) = v(i) > 0.0 ? large : mu / large;
        s(i) = v(i) > 0.0 ? mu / large : large;
    }
}

struct DualPath {
    Vector v, w;  // of the stacked rows, of the rows R
    int steps = 0;

    // From v = `from`, whose part of the equalities stays as it is, to |f| <= goal.  False where Newton's method stalls.
    bool follow(const Program& program, const Dual& dual, double mu, const Vector& from, double goal, int most_steps) {
        v = from;
        steps = 0;
        double size = evaluate(program, dual, v, mu);
        for (; steps < most_steps && size > goal; ++steps) {
            if (!step(program, dual.known->N)) return false;
            const double before = size;
            size = damped(program, dual, mu, size);
            if (!(size < before)) return false;
        }
        return size <= goal;
    }

private:
    static constexpr int halvings = 40;
    Matrix M_;
    Vector z_, s_, f_, W_, root_, g_, a_, dv_, v_new_;

    // t of the stacked rows at the rows R: both sides of a variable together, the lower one times `sign`
    static void join(const Program& program, const Vector& t, double sign, Index r, Vector& out) {
        const Index n = program.n, m = program.m;
        out.setZero(r);
        out.head(m) = t.segment(program.p, m);
        if (program.lower > 0) out.tail(n) += sign * t.segment(program.first_lower(), n);
        if (program.upper > 0) out.tail(n) += t.segment(program.first_upper(), n);
    }

    // A_i x of the inequality at a stacked row, for a = R x
    static double at_row(const Program& program, const Vector& a, Index row) {
        if (row < program.first_lower()) return a(row - program.p);
        const double value = a(program.m + program.variable(row));
        return program.is_lower(row) ? -value : value;
    }

    // z, s, w and f at v; returns |f|
    double evaluate(const Program& program, const Dual& dual, const Vector& at, double mu) {
        take_halves(program, at, mu, z_, s_);
        join(program, z_, -1.0, dual.a_0.size(), w);
        a_ = dual.a_0;
        a_.noalias() -= dual.known->N * w;
        f_.setZero(program.rows());
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.binds(i)) f_(i) = at_row(program, a_, i) + s_(i) - program.side(i);
        }
        return f_.norm();
    }

    // dv; false where the factorization fails
    bool step(const Program& program, const Matrix& N) {
        const Index r = N.rows(), p = program.p, rows = program.rows();
        W_.setZero(rows);
        for (Index i = p; i < rows; ++i) {
            if (program.binds(i)) W_(i) = z_(i) / s_(i);
        }
        join(program, W_, 1.0, r, root_);
        root_ = root_.cwiseSqrt();
        W_ = W_.cwiseProduct(f_);
        join(program, W_, -1.0, r, g_);
        for (Index j = 0; j < r; ++j) g_(j) = root_(j) > 0.0 ? g_(j) / root_(j) : 0.0;
        M_.resize(r, r);
        for (Index j = 0; j < r; ++j) {
            M_.col(j).tail(r - j) = (root_(j) * root_.tail(r - j)).cwiseProduct(N.col(j).tail(r - j));
            M_(j, j) += 1.0;
        }
        if (!cholesky(M_)) return false;
        solve_lower(M_, g_);
        solve_upper(M_, g_);
        g_ = root_.cwiseProduct(g_);
        a_.noalias() = -(N * g_);
        dv_.setZero(rows);
        for (Index i = p; i < rows; ++i) {
            if (program.binds(i)) dv_(i) = (at_row(program, a_, i) + f_(i)) * (z_(i) + s_(i)) / s_(i);
        }
        return all_finite(dv_);
    }

    // The longest of the steps 1, 1/2, 1/4, ... that lowers |f|; returns |f| there.
    double damped(const Program& program, const Dual& dual, double mu, double size) {
        double length = 1.0;
        for (int k = 0; k < halvings; ++k, length *= 0.5) {
            v_new_ = v + length * dv_;
            const double after = evaluate(program, dual, v_new_, mu);
            if (after <= (1.0 - 1e-4 * length) * size) {
                v.swap(v_new_);
                return after;
            }
        }
        return size;
    }
};

}  // namespace core
