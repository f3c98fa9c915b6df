// The KKT system with every inequality eliminated by its weight W, for steps that need not be accurate:
//
//     [[M, A'], [A, 0]] (dx, dy) = (r + gamma A'e, e),      M = P + C_i'W C_i + gamma A'A,  C_i: rows of G and bounds
//
// gamma > 0 changes no solution and makes M definite where P and the inequalities leave free directions that A does not.
#pragma once

#include "data.hpp"

namespace core {

struct Condensed {
    Matrix M, S, V;
    double gamma = 0.0;

    // W: of the stacked rows, zero on equalities and on rows that are not finite.
    bool compute(const Program& program, ConstVectorRef W) {
        const Index n = program.n, p = program.p, m = program.m;
        M = *program.P;
        if (m > 0) {
            V.resize(n, std::max(m, p));
            V.leftCols(m).noalias() = program.C().rightCols(m) * W.segment(p, m).cwiseSqrt().asDiagonal();
            M.selfadjointView<Eigen::Lower>().rankUpdate(V.leftCols(m));
        }
        if (program.lower > 0) M.diagonal() += W.segment(program.first_lower(), n);
        if (program.upper > 0) M.diagonal() += W.segment(program.first_upper(), n);
        return factor(program);
    }

    // The same with P + C_i'W C_i in the lower triangle of M, for a W that is not diagonal.
    bool factor(const Program& program) {
        const Index n = program.n, p = program.p, m = program.m;
        const double size = magnitude(M.diagonal());
        gamma = p > 0 ? std::clamp(size, 1e-6, 1e6) : 0.0;
        if (gamma > 0.0) M.selfadjointView<Eigen::Lower>().rankUpdate(program.C().leftCols(p), gamma);
        M.diagonal().array() += 1e-14 * std::max(size, 1e-6);
        if (!cholesky(M)) return false;
        S.resize(p, p);
        if (p == 0) return true;
        V.resize(n, std::max(m, p));
        V.leftCols(p) = program.C().leftCols(p);
        solve_lower(M, V.leftCols(p));
        S.setZero();
        S.selfadjointView<Eigen::Lower>().rankUpdate(V.leftCols(p).transpose());
        return cholesky(S);
    }

    // dx holds r and dy holds e; the solution comes in their place.
    void solve(const Program& program, VectorRef dx, VectorRef dy) const {
        const Index p = program.p;
        if (gamma > 0.0) dx.noalias() += program.C().leftCols(p) * (gamma * dy);
        solve_lower(M, dx);
        if (p > 0) {
            dy = V.leftCols(p).transpose() * dx - dy;
            solve_lower(S, dy);
            solve_upper(S, dy);
            dx.noalias() -= V.leftCols(p) * dy;
        }
        solve_upper(M, dx);
    }
};

}  // namespace core
