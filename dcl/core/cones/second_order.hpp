// The second-order cone {(t, u) : |u| <= t} with the barrier -log(t^2 - |u|^2), at a point (dcl/cones/second_order.py).
//
// v = (t, u) has the eigenvalues l_1, l_2 = t +- |u|;  h = 8 mu;  e = u / |u|:
//
//     z = ((g_1 + g_2) / 2,  d_12 u)           D = Q diag(d_1, d_2, d_12, ..., d_12) Q'
//     columns of Q:  c_1, c_2 = (1, +-e) / sqrt(2),  and (0, n) with n'e = 0: a Householder reflection, O(size)
//
// The rows A of the cone enter the condensed system as  A'W A = w_12 A'A + (w_1 - w_12) b_1 b_1' + (w_2 - w_12) b_2 b_2',
// b_i = A'c_i, so that the Gram matrix A'A is formed once.
#pragma once

#include "spectral.hpp"

namespace core {

struct SecondOrder {
    Index first = 0, size = 0;
    double h = 0.0, l_1 = 0.0, l_2 = 0.0;

    SecondOrder(Index row, Index rows) : first(row), size(rows), e_(Vector::Zero(rows - 1)) {}

    void evaluate(ConstVectorRef v, double mu, VectorRef z) {
        h = 8.0 * mu;
        const auto u = v.tail(size - 1);
        const double rho = u.stableNorm();
        l_1 = v(0) + rho;
        l_2 = v(0) - rho;
        if (rho > 0.0) {
            e_ = u / rho;
            e_ /= e_.norm();  // rho may be so small that it has few digits
        } else if (size > 1) {
            e_.setZero();
            e_(0) = 1.0;
        }
        z(0) = 0.5 * (image(l_1, h) + image(l_2, h));
        z.tail(size - 1) = slope(l_1, l_2, h) * u;
        if (h > 0.0) return;
        Eigen::Vector2d l(l_1, l_2);
        settle(l);
        l_1 = l(0), l_2 = l(1);
    }

    double d(Index k) const { return apply(slope, k); }
    double w(Index k) const { return apply(weight, k); }
    double distance() const { return std::min(std::abs(l_1), std::abs(l_2)); }

    // Q'w and Q w, in place
    template <class Out>
    void to_eigen(Out&& w) const {
        if (size == 1) return;
        auto y = w.tail(size - 1);
        reflect(y);
        const double along = -sign() * y(0), t = w(0);
        w(0) = half * (t + along);
        w(1) = half * (t - along);
    }
    template <class Out>
    void from_eigen(Out&& w) const {
        if (size == 1) return;
        const double plus = w(0), minus = w(1);
        w(0) = half * (plus + minus);
        w(1) = -sign() * half * (plus - minus);
        auto y = w.tail(size - 1);
        reflect(y);
    }

    // u <- W u, mu > 0
    template <class Out>
    void weigh(Out&& u) const {
        if (size == 1) {
            u *= w(0);
            return;
        }
        const double t = u(0), along = e_.dot(u.tail(size - 1)), across = w(2);
        const double plus = half * (t + along) * (w(0) - across), minus = half * (t - along) * (w(1) - across);
        u *= across;
        u(0) += half * (plus + minus);
        u.tail(size - 1) += half * (plus - minus) * e_;
    }

    // B (n x size) <- the columns A' (n x size) of the cone's rows times Q
    void rotate(Eigen::Ref<const Matrix> A, Eigen::Ref<Matrix> B) const {
        if (size == 1) {
            B = A;
            return;
        }
        // column k of A'H is a_k - (A' normal) normal_k / |normal_1|,  normal = e + sign * (first axis)
        along_.noalias() = A.rightCols(size - 1) * e_;
        other_ = along_ + sign() * A.col(1);
        const double length = 1.0 + std::abs(e_(0));
        for (Index k = 1; k < size - 1; ++k) B.col(k + 1) = A.col(k + 1) - (e_(k) / length) * other_;
        B.col(0) = half * (A.col(0) + along_);
        B.col(1) = half * (A.col(0) - along_);
    }

    // b_1 and b_2
    void axes(Eigen::Ref<const Matrix> A, VectorRef b_1, VectorRef b_2) const {
        along_.noalias() = A.rightCols(size - 1) * e_;
        b_1 = half * (A.col(0) + along_);
        b_2 = half * (A.col(0) - along_);
    }

private:
    static constexpr double half = 0.70710678118654752440;
    Vector e_;
    mutable Vector along_, other_;

    template <class Function>
    double apply(Function f, Index k) const {
        return k == 0 ? f(l_1, l_1, h) : k == 1 ? f(l_2, l_2, h) : f(l_1, l_2, h);
    }
    double sign() const { return e_(0) < 0.0 ? -1.0 : 1.0; }

    // y <- y - normal (normal'y) / (1 + |e_1|)
    template <class Out>
    void reflect(Out&& y) const {
        const double share = (e_.dot(y) + sign() * y(0)) / (1.0 + std::abs(e_(0)));
        y -= share * e_;
        y(0) -= share * sign();
    }
};

}  // namespace core
