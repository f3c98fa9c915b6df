// The 2-norm condition |S| |S^-1| of the factored system, as dcl/factor/dense.py estimates it: from a fixed random probe and
// one power step each.
#pragma once

#include <random>

#include "point.hpp"

namespace core {

// A first solve with a relative residual above this cannot be refined quickly.
inline constexpr double refinable = 1e-4;

struct Condition {
    // infinity where solves with the factor cannot be refined
    double estimate(const Factor& factor) {
        const Index n = factor.n(), k = factor.strong.size(), w = factor.weak.size();
        draw(n + k);
        step_.resize(n, k + w);
        Vector& a = step_.a;
        Vector& y = step_.y;
        step_.r1 = probe_.head(n);
        step_.r2.head(k) = probe_.segment(n, k);
        step_.r2.tail(w).setZero();
        factor.once(step_.r1, step_.r2, a, y);
        multiply(factor, a, y, step_.s1, step_.s2);
        const double error =
            std::sqrt((step_.r1 - step_.s1).squaredNorm() + (step_.r2 - step_.s2).head(k).squaredNorm());
        const double length = std::sqrt(a.squaredNorm() + y.head(k).squaredNorm());
        if (!(error <= refinable * probe_.head(n + k).norm())) return infinity;
        step_.r1 = a / length;
        step_.r2.head(k) = y.head(k) / length;
        factor.once(step_.r1, step_.r2, a, y);
        const double inverse = std::sqrt(a.squaredNorm() + y.head(k).squaredNorm());
        step_.r1 = probe_.head(n);
        step_.r2.head(k) = probe_.segment(n, k);
        multiply(factor, step_.r1, step_.r2, step_.s1, step_.s2);
        const double forward = std::sqrt(step_.s1.squaredNorm() + step_.s2.head(k).squaredNorm());
        if (forward == 0.0) return infinity;
        step_.r1 = step_.s1 / forward;
        step_.r2.head(k) = step_.s2.head(k) / forward;
        multiply(factor, step_.r1, step_.r2, step_.s1, step_.s2);
        const double norm = std::sqrt(step_.s1.squaredNorm() + step_.s2.head(k).squaredNorm());
        return norm * inverse;
    }

private:
    Vector probe_, weak_;
    Step step_;

    void draw(Index size) {
        if (probe_.size() >= size) return;
        std::mt19937_64 generator(1);
        probe_.resize(size + 64);
        // sums of uniform numbers: normal enough, and the same on every platform
        for (Index i = 0; i < probe_.size(); ++i) {
            double sum = -2.0;
            for (int draw = 0; draw < 4; ++draw) sum += static_cast<double>(generator() >> 11) * 0x1p-53;
            probe_(i) = sum;
        }
    }

    // S (a, y), the weak rows eliminated
    void multiply(const Factor& factor, const Vector& a, const Vector& y, Vector& s1, Vector& s2) {
        const Index k = factor.strong.size(), w = factor.weak.size();
        s1.noalias() = factor.P_scale * (factor.P * a);
        if (w > 0) {
            weak_.resize(w);
            factor.weak.times(a, weak_);
            weak_ = factor.W.cwiseProduct(weak_);
            factor.weak.add_transposed(weak_, s1);
            s2.tail(w).setZero();
        }
        factor.strong.add_transposed(y.head(k), s1);
        factor.strong.times(a, s2.head(k));
        s2.head(k) -= factor.T.cwiseProduct(y.head(k));
    }
};

}  // namespace core
