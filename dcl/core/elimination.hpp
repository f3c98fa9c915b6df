// P > 0: the program in its multipliers alone, equalities eliminated.
//
// Let R be the rows of G and, where there are bounds, of I, each with lo <= R x <= hi and one signed multiplier w
// (w > 0 at hi, w < 0 at lo).  With P = L L',  V = L^-1 [A' R'] =: [V_A V_R],
//
//     x = x_0 - P^-1 (A'y + R'w),   x_0 = -P^-1 q
//     V_A'V_A = L_A L_A',   Y = L_A^-1 V_A'V_R,   u = L_A^-1 (A x_0 - b):      y = L_A^-T (u - Y w)
//     R x = a_0 - N w,       N = V_R'V_R - Y'Y >= 0,       a_0 = R x_0 - Y'u
//
// what depends on P, A and G only (L, V, L_A, Y, N) is made once if they are shared by the batch.
#pragma once

#include "data.hpp"

namespace core {

// A pivot of P below this, relative to its largest entry: P does not count as definite.
inline constexpr double definite = 1e-10;

struct Elimination {
    Matrix V, L_A, Y, N;

    // L: of P.  False where rows of A are dependent.
    bool compute(ConstMatrixRef L, ConstMatrixRef C, Index p, bool bounds) {
        const Index n = L.rows(), m = C.cols() - p, r = m + (bounds ? n : 0);
        V.resize(n, p + r);
        V.leftCols(p + m) = C;
        if (bounds) V.rightCols(n).setIdentity();
        solve_lower(L, V.leftCols(p + r));
        L_A.setZero(p, p);
        add_gram(V.leftCols(p), 1.0, L_A);
        const double size = magnitude(L_A.diagonal());
        if (!cholesky(L_A, 1e-13 * size)) return false;
        Y.resize(p, r);
        N.setZero(r, r);
        add_gram(V.rightCols(r), 1.0, N);
        if (r == 0) return true;
        if (p > 0) {
            Y.noalias() = V.leftCols(p).transpose() * V.rightCols(r);
            solve_lower(L_A, Y.leftCols(r));
            add_gram(Y, -1.0, N);
        }
        N.triangularView<Eigen::StrictlyUpper>() = N.transpose();
        return true;
    }
};

}  // namespace core
