// The function g of the eigenvalues that projects onto a symmetric cone (dcl/cones/spectral.py has the proofs).
//
//     g(l) = (l + r) / 2,   r = sqrt(l^2 + h)         z has the eigenvalues g(l),  s = z - v has g(-l),   g(l) g(-l) = h / 4
//     D = dz/dv has the divided differences           d_ij = (g_i + g_j) / (r_i + r_j)
//     W = D (I - D)^-1 has                            w_ij = (g(l_i) + g(l_j)) / (g(-l_i) + g(-l_j)),   w_ii = g(l_i) / g(-l_i)
//
// since r = g(l) + g(-l).  h = 0: g(l) = max(l, 0), and an eigenvalue that is zero up to rounding is a kink, where d_ii = 1/2.
#pragma once

#include <algorithm>

#include "../types.hpp"

namespace core {

// An eigenvalue counts as zero below this, or below what rounding leaves of the largest (dcl/cones/base.py).
inline constexpr double tie_tolerance = 1e-9, tie_rounding = 1e-12;

inline double root(double l, double h) { return h > 0.0 ? std::sqrt(l * l + h) : std::abs(l); }

// g(l), without cancellation
inline double image(double l, double h) {
    if (!(h > 0.0)) return std::max(l, 0.0);
    const double r = root(l, h);
    return l > 0.0 ? 0.5 * (l + r) : 0.5 * h / (r + std::abs(l));
}

// d_ij
inline double slope(double l_i, double l_j, double h) {
    const double total = root(l_i, h) + root(l_j, h);
    return total == 0.0 ? 0.5 : (image(l_i, h) + image(l_j, h)) / total;
}

// w_ij, infinite where d_ij = 1
inline double weight(double l_i, double l_j, double h) {
    const double dual = image(l_i, h) + image(l_j, h), primal = image(-l_i, h) + image(-l_j, h);
    return dual == 0.0 && primal == 0.0 ? 1.0 : dual / primal;
}

// Eigenvalues of a block, at h = 0: zero where they are so up to rounding.
template <class Values>
void settle(Values&& l) {
    const double zero = std::max(tie_tolerance, tie_rounding * magnitude(l));
    for (Index i = 0; i < l.size(); ++i) {
        if (std::abs(l(i)) <= zero) l(i) = 0.0;
    }
}

}  // namespace core
