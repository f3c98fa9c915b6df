// A bound of |S^-1| in the 2-norm for a program with smooth terms of two tails, S as the careful lane has it (dcl/kkt/system.py), with
// the cones of the terms and in units of its own:  c of the objective, E of rows.
//
//     S (u, y) = (r, rho)   is   P u + A'w = r / c,   w = D (w - h + A u),   h = Q D^(-1/2) rho / E,   w c / E = Q D^(1/2) y
//
// At s = S a, z = Z b on an exponential cone, with n = a x b, ta = |b|^ / |a|^^2, tb = (s_3 / s_2) |a|^ / |b|^^2, |a|^ = S / s_2,
// |b|^ = Z / z_3, D is 0 along a, 1 along b, and Z tb / (S ta + Z tb) along n (dcl/cones/three.py).  What a term's t, b and n do to
// the others goes through the tails alone, C_T w_T, and S^-1 is symmetric, so that with R of smooth_error.hpp and a column g of G for
// each of the three
//
//     S^-1 = [I G]'R [I G] / c + diag(0, D_0),     D_0: 3 x 3 for each term,   g = c C_T (W h_T + sigma p r_t / (alpha c))
#pragma once

#include <Eigen/Geometry>

#include "smooth_terms.hpp"

namespace core {

// S C for the first rows of a symmetric S, by columns of S where C has few entries.
inline void times_columns(const Matrix& S, ConstMatrixRef C, Matrix& out) {
    const Index n = C.rows();
    if (4 * (C.array() != 0.0).count() >= C.size()) {
        out.noalias() = S.leftCols(n) * C;
        return;
    }
    out.setZero(S.rows(), C.cols());
    for (Index k = 0; k < C.cols(); ++k) {
        for (Index j = 0; j < n; ++j) {
            if (C(j, k) != 0.0) out.col(k) += C(j, k) * S.col(j);
        }
    }
}

// Of a term with two tails: its share of the header.
struct SmoothPair {
    using Three = Eigen::Vector3d;
    Eigen::Matrix3d direct;         // D_0
    Eigen::Matrix<double, 2, 3> G;  // W h_T - c of the tails, for t, b, n

    // c, E: units.  u: the two tails
    SmoothPair(Smooth kind, const double* u, double lambda, double alpha, double c, double E) {
        const bool is_relative = kind == Smooth::relative;
        const double sigma = is_relative ? -1.0 : 1.0, ratio = u[0] / u[1], power = std::exp(ratio);
        const Eigen::Vector2d p = is_relative ? Eigen::Vector2d(std::log(u[0]) - std::log(u[1]) + 1.0, -ratio)
                                              : Eigen::Vector2d(power, power * (1.0 - ratio));
        const double psi = is_relative ? u[0] * (p(0) - 1.0) : u[1] * power;
        const double weight = lambda * (is_relative ? 1.0 / u[0] : power / u[1]);
        const int head = is_relative ? 0 : 2, tail = is_relative ? 1 : 0;
        Three s, z;
        s(head) = sigma * psi, z(head) = sigma * lambda;
        s.segment<2>(tail) = Eigen::Vector2d(u[0], u[1]);
        z.segment<2>(tail) = -lambda * p;
        s *= E, z *= c / E;
        const double S = s.norm(), Z = z.norm(), long_a = S / s(1), long_b = Z / z(2);
        const double ta = long_b / (long_a * long_a), tb = s(2) / s(1) * long_a / (long_b * long_b);
        const double root = std::sqrt(Z * tb / (S * ta + Z * tb));
        const Three b = z / Z, n = (s / S).cross(b);
        const Eigen::Vector2d v(1.0, -ratio);
        const Three sides[] = {Three::Zero(), b / E, n / (root * E)};
        for (int k = 0; k < 3; ++k) {
            const Three& h = sides[k];
            const double at_head = k == 0 ? 1.0 / (c * alpha) : 0.0;
            G.col(k) = weight * v.dot(h.segment<2>(tail)) * v + sigma * at_head * p;
            Three w;
            w(head) = at_head;
            w.segment<2>(tail) = -G.col(k);
            w *= c / E;
            direct.col(k) = Three((h(head) - sigma * p.dot(h.segment<2>(tail))) / alpha, b.dot(w), n.dot(w) / root);
        }
    }
};

// infinity where a term is a log sum.  R: the inverse of K, B: its rows by columns; alpha, units: by term.
inline double bound_inverse(const std::vector<SmoothTerm>& terms, const Matrix& R, ConstMatrixRef B, const Matrix& C, const Vector& u,
                            const Vector& lambda, const double* alpha, const Vector& units, double c) {
    const Index n = C.rows(), rows = B.cols();
    Vector scale(n + rows);
    scale.head(n).setConstant(1.0 / std::sqrt(c));
    for (Index k = 0; k < rows; ++k) scale(n + k) = std::sqrt(c) / unit(magnitude(B.col(k)));
    const Matrix inner = scale.asDiagonal() * R * scale.asDiagonal();
    Matrix G(n, 3 * core::count(terms));
    double direct = 0.0;
    for (Index t = 0; t < core::count(terms); ++t) {
        const SmoothTerm& term = terms[static_cast<std::size_t>(t)];
        if (term.kind == Smooth::log_sum) return infinity;
        const SmoothPair pair(term.kind, u.data() + term.first, lambda(t), alpha[t], c, units(t));
        G.middleCols(3 * t, 3).noalias() = C.middleCols(term.first, 2) * pair.G;
        direct = std::max(direct, pair.direct.norm());
    }
    G *= c;
    Matrix RG;
    times_columns(inner, G, RG);
    const double mixed = RG.norm();
    const double found = std::sqrt(inner.squaredNorm() + 2.0 * mixed * mixed) + G.norm() * RG.topRows(n).norm() + direct;
    return std::isfinite(found) ? found : infinity;
}

}  // namespace core
