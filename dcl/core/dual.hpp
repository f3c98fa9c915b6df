// One program with P > 0 in its multipliers (elimination.hpp): what q and the right-hand sides add, and the way back.
#pragma once

#include "elimination.hpp"
#include "factor.hpp"

namespace core {

struct Dual {
    const Elimination* known = nullptr;
    Vector x_0, u, a_0;

    // P: a factor whose first one is that of P.
    void compute(const Program& program, const Factor& P, const Elimination& elimination) {
        const Index n = program.n, p = program.p, m = program.m;
        known = &elimination;
        x_0 = -program.q;
        P.divide(x_0);
        a_0.resize(known->N.rows());
        a_0.head(m).noalias() = program.C().rightCols(m).transpose() * x_0;
        if (a_0.size() > m) a_0.tail(n) = x_0;
        u.resize(p);
        if (p == 0) return;
        u.noalias() = program.C().leftCols(p).transpose() * x_0;
        u -= program.side.head(p);
        solve_lower(known->L_A, u);
        a_0.noalias() -= known->Y.transpose() * u;
    }

    // x and y of the multipliers w of the rows R
    void recover(const Program& program, const Factor& P, const Vector& w, Vector& x, Vector& y) const {
        const Index n = program.n, p = program.p, m = program.m;
        y = u;
        if (p > 0) {
            y.noalias() -= known->Y * w;
            solve_upper(known->L_A, y);
        }
        x = -program.q;
        if (p > 0) x.noalias() -= program.C().leftCols(p) * y;
        if (m > 0) x.noalias() -= program.C().rightCols(m) * w.head(m);
        if (w.size() > m) x -= w.tail(n);
        P.divide(x);
    }
};

}  // namespace core
