// The 2-norm condition |S| |S^-1| as dcl/kkt/dense.py estimates it: from a fixed random probe and one power step each.
//
//     S = [[P, B'R], [R B, D - I]],   D = R^2 = 1 / (1 + T)      (dcl/kkt/system.py; rows with D = 0 are left out)
//     S (a, w) = (r1, r2)   is   K (a, y) = (r1, r2 / R) of factor.hpp,   y = R w
//
// Where the inverses of the factors are at hand and T = 0 there is a bound that costs nothing.  With X, Y, Z the blocks of the
// inverse of [[M, B'], [B, 0]],
//
//     0 <= X <= M^-1,   Y = L2^-T (L2^-1 B L1^-T) L1^-1,   Z = -Q^-1,   S^-1 = [[X, Y'], [Y, Z + G]]
//
// and the middle factor of Y has orthonormal rows:  |S^-1| <= |L1^-1|^2 + |L2^-1|^2 + max G.
//
// On the central path, with T > 0 on strong rows, the same is a bound of K^-1 there with max G / (1 - G T) in place of max G, and
// S^-1 has 1 / R^2 = 1 + T <= 2 of it.  With G = 0 that middle factor times its transpose is L2^-1 (Q - T) L2^-T <= I, which
// leaves  |S^-1| <= |L1^-1|^2 + |L2^-1 R^-1|^2  for any T: a row with a large one has a large entry in L2.  Weak rows are eliminated from S by J = (I - D)^-1 R B_w,
//
//     S^-1 = [[I, 0], [J, I]] diag(S_strong^-1, -(I - D)^-1) [[I, J'], [0, I]]:   |S^-1| <= (1 + |J|)^2 max(|S_strong^-1|, 2)
#pragma once

#include <random>

#include "point.hpp"

namespace core {

// A first solve with a relative residual above this cannot be refined quickly.
inline constexpr double refinable = 1e-4;

struct Condition {
    // An upper bound, infinity where there is none; in Frobenius norms.
    static double bound(const Factor& factor) {
        if (!factor.inverted || factor.weak.size() > 0 || (factor.T.array() != 0.0).any()) return infinity;
        const double inverse = factor.K1.squaredNorm() + factor.K2.squaredNorm() + magnitude(factor.G);
        const double rows = factor.strong.columns().squaredNorm() + static_cast<double>(count(factor.strong.variable));
        return inverse * std::sqrt(factor.P_scale * factor.P_scale * factor.P.squaredNorm() + 2.0 * rows);
    }

    // The same at mu > 0.
    static double bound_on_path(const Factor& factor) {
        if (!factor.inverted) return infinity;
        double added = 0.0, longest = 1.0, entries = factor.P_scale * factor.P_scale * factor.P.squaredNorm(), J = 0.0;
        const auto length = [](const Rows& rows, Index i) { return i < rows.general ? rows.Bt.col(i).squaredNorm() : 1.0; };
        for (Index i = 0; i < factor.strong.size(); ++i) {
            const double T = factor.T(i), d = 1.0 / (1.0 + T), G = factor.G.size() > 0 ? factor.G(i) : 0.0;
            added = std::max(added, G / (1.0 - G * T));
            longest = std::max(longest, 1.0 + T);
            entries += 2.0 * d * length(factor.strong, i) + (1.0 - d) * (1.0 - d);
        }
        for (Index i = 0; i < factor.weak.size(); ++i) {
            const double W = factor.W(i), rest = 1.0 / (1.0 + W), row = length(factor.weak, i);
            J += W * (1.0 + W) * row;
            entries += 2.0 * W * rest * row + rest * rest;
        }
        double strong = factor.K1.squaredNorm();
        if (factor.G.size() > 0) {
            strong = longest * (strong + factor.K2.squaredNorm() + added);
        } else {
            for (Index i = 0; i < factor.strong.size(); ++i) strong += (1.0 + factor.T(i)) * factor.K2.col(i).squaredNorm();
        }
        const double outer = 1.0 + std::sqrt(J);
        return outer * outer * std::max(strong, 2.0) * std::sqrt(entries);
    }

    // infinity where solves with the factor cannot be refined
    double estimate(const Factor& factor) {
        const Index n = factor.n(), k = factor.size();
        draw(n + k);
        roots(factor);
        step_.resize(n, k);
        const auto one = probe_.head(n), other = probe_.segment(n, k);
        // inverse
        solve(factor, one, other);
        multiply(factor, step_.a, step_.y);
        const double error = std::hypot((one - step_.s1).norm(), (other - step_.s2).norm());
        if (!(error <= refinable * probe_.head(n + k).norm())) return infinity;
        first_ = step_.a;
        second_ = step_.y;
        normalize();
        solve(factor, first_, second_);
        const double inverse = std::hypot(step_.a.norm(), step_.y.norm());
        // forward
        multiply(factor, one, other);
        first_ = step_.s1;
        second_ = step_.s2;
        if (!normalize()) return infinity;
        multiply(factor, first_, second_);
        return inverse * std::hypot(step_.s1.norm(), step_.s2.norm());
    }

private:
    Vector probe_, root_, rest_, first_, second_, scaled_;
    Step step_;

    void draw(Index size) {
        if (probe_.size() >= size) return;
        std::mt19937_64 generator(1);
        probe_.resize(size + 64);
        // sums of uniform numbers: normal enough, and the same on every platform
        for (Index i = 0; i < probe_.size(); ++i) {
            double sum = -2.0;
            for (int term = 0; term < 4; ++term) sum += static_cast<double>(generator() >> 11) * 0x1p-53;
            probe_(i) = sum;
        }
    }

    // R and I - D
    void roots(const Factor& factor) {
        const Index k = factor.strong.size(), w = factor.weak.size();
        root_.resize(k + w);
        rest_.resize(k + w);
        root_.head(k) = (1.0 + factor.T.array()).sqrt().inverse();
        rest_.head(k) = factor.T.array() / (1.0 + factor.T.array());
        root_.tail(w) = (factor.W.array() / (1.0 + factor.W.array())).sqrt();
        rest_.tail(w) = (1.0 + factor.W.array()).inverse();
    }

    bool normalize() {
        const double length = std::hypot(first_.norm(), second_.norm());
        first_ /= length;
        second_ /= length;
        return length > 0.0;
    }

    // S^-1 (r1, r2) into step_.a, step_.y
    void solve(const Factor& factor, ConstVectorRef r1, ConstVectorRef r2) {
        step_.r2 = r2.cwiseQuotient(root_);
        factor.once(r1, step_.r2, step_.a, step_.y);
        step_.y = step_.y.cwiseQuotient(root_);
    }

    // S (a, w) into step_.s1, step_.s2
    void multiply(const Factor& factor, ConstVectorRef a, ConstVectorRef w) {
        const Index k = factor.strong.size(), weak = factor.weak.size();
        scaled_ = root_.cwiseProduct(w);
        step_.s1.noalias() = factor.P_scale * (factor.P * a);
        factor.strong.add_transposed(scaled_.head(k), step_.s1);
        factor.strong.times(a, step_.s2.head(k));
        if (weak > 0) {
            factor.weak.add_transposed(scaled_.tail(weak), step_.s1);
            factor.weak.times(a, step_.s2.tail(weak));
        }
        step_.s2 = root_.cwiseProduct(step_.s2) - rest_.cwiseProduct(w);
    }
};

}  // namespace core
