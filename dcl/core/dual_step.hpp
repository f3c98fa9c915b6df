// A Newton step on the central path where P > 0, in the multipliers of the rows R of elimination.hpp alone:
//
//     P dx + A'dy + R'dw = -f_1,   A dx = -f_e,   dw = W R dx + t        W, t: of both sides of a row together
//
// With x_0 = -P^-1 f_1,  u = L_A^-1 (A x_0 + f_e),  a_0 = R x_0 - Y'u  and dw = W^(1/2) g this is
//
//     (I + W^(1/2) N W^(1/2)) g = W^(1/2) a_0 + W^(-1/2) t,   dy = L_A^-T (u - Y dw),   dx = x_0 - P^-1 (A'dy + R'dw)
//
// one Cholesky factorization of the size of R, where condensed.hpp needs one of size n and the matrix to be formed.
#pragma once

#include "elimination.hpp"
#include "factor.hpp"

namespace core {

struct DualStep {
    // P: its `first` factor is that of P.  W: of the stacked rows; f_2: residual of the stacked rows.  dx, dy out; false where the
    // factorization fails.
    bool solve(const Program& program, const Factor& P, const Elimination& known, ConstVectorRef W, ConstVectorRef f_1,
               ConstVectorRef f_2, Vector& dx, Vector& dy) {
        const Index n = program.n, p = program.p, m = program.m, r = known.N.rows();
        join_sides(program, W, f_2, r);
        dx = -f_1;
        P.divide(dx);
        g_.resize(r);
        g_.head(m).noalias() = program.C().rightCols(m).transpose() * dx;
        if (r > m) g_.tail(n) = dx;
        dy.resize(p);
        if (p > 0) {
            dy.noalias() = program.C().leftCols(p).transpose() * dx;
            dy += f_2.head(p);
            solve_lower(known.L_A, dy);
            g_.noalias() -= known.Y.transpose() * dy;
        }
        g_ = root_.cwiseProduct(g_) + t_;
        M_.resize(r, r);
        for (Index j = 0; j < r; ++j) {
            M_.col(j).tail(r - j) = (root_(j) * root_.tail(r - j)).cwiseProduct(known.N.col(j).tail(r - j));
            M_(j, j) += 1.0;
        }
        if (!cholesky(M_)) return false;
        solve_lower(M_, g_);
        solve_upper(M_, g_);
        g_ = root_.cwiseProduct(g_);
        back_.resize(n);
        back_.noalias() = program.C().rightCols(m) * g_.head(m);
        if (r > m) back_ += g_.tail(n);
        if (p > 0) {
            dy.noalias() -= known.Y * g_;
            solve_upper(known.L_A, dy);
            back_.noalias() += program.C().leftCols(p) * dy;
        }
        P.divide(back_);
        dx -= back_;
        return true;
    }

private:
    Matrix M_;
    Vector root_, t_, g_, back_;

    // W^(1/2) and W^(-1/2) t of the rows of R; a bound's two sides have opposite signs.
    void join_sides(const Program& program, ConstVectorRef W, ConstVectorRef f_2, Index r) {
        const Index n = program.n, m = program.m, first = program.p;
        root_ = Vector::Zero(r);
        t_ = Vector::Zero(r);
        root_.head(m) = W.segment(first, m);
        t_.head(m) = W.segment(first, m).cwiseProduct(f_2.segment(first, m));
        if (program.lower > 0) {
            const auto w = W.segment(program.first_lower(), n);
            root_.tail(n) += w;
            t_.tail(n) -= w.cwiseProduct(f_2.segment(program.first_lower(), n));
        }
        if (program.upper > 0) {
            const auto w = W.segment(program.first_upper(), n);
            root_.tail(n) += w;
            t_.tail(n) += w.cwiseProduct(f_2.segment(program.first_upper(), n));
        }
        root_ = root_.cwiseSqrt();
        for (Index j = 0; j < r; ++j) t_(j) = root_(j) > 0.0 ? t_(j) / root_(j) : 0.0;
    }
};

}  // namespace core
