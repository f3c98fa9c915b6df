// The cone of positive semidefinite k x k matrices with the barrier -log det, at a point (dcl/cones/semidefinite.py).
//
//     svec(X) = (X_11, sqrt(2) X_12, X_22, sqrt(2) X_13, ...)     V = smat(v) = U diag(l) U',   h = 4 mu
//     (the upper triangle by columns, or the lower one by columns, as SCS has it)
//     z = svec(U diag(g(l)) U'),      D = Q diag(d_ij) Q',   Q'w = svec(U' smat(w) U)
#pragma once

#include <Eigen/Eigenvalues>

#include "spectral.hpp"

namespace core {

struct Semidefinite {
    Index first = 0, order = 0, size = 0;
    double h = 0.0;
    Vector l;

    Semidefinite(Index start, Index k, bool lower)
        : first(start), order(k), size(k * (k + 1) / 2), X_(k, k), U_(k, k) {
        for (Index j = 0; j < k; ++j) {
            for (Index i = lower ? j : 0; i < (lower ? k : j + 1); ++i) row_.push_back(i), column_.push_back(j);
        }
    }

    void evaluate(ConstVectorRef v, double mu, VectorRef z) {
        h = 4.0 * mu;
        smat(v, X_);
        // not a member: cones are copied, and Eigen's solver has no state to copy before it was used
        thread_local Eigen::SelfAdjointEigenSolver<Matrix> solver;
        solver.compute(X_);
        U_ = solver.eigenvectors();
        l = solver.eigenvalues();
        Y_ = U_ * l.unaryExpr([this](double one) { return image(one, h); }).asDiagonal();
        X_.noalias() = Y_ * U_.transpose();
        svec(X_, z);
        if (!(h > 0.0)) settle(l);
    }

    double d(Index k) const { return slope(l(row_[k]), l(column_[k]), h); }
    double w(Index k) const { return weight(l(row_[k]), l(column_[k]), h); }
    double distance() const { return l.array().abs().minCoeff(); }

    template <class Out>
    void to_eigen(Out&& w) const {
        smat(w, X_);
        Y_.noalias() = X_ * U_;
        X_.noalias() = U_.transpose() * Y_;
        svec(X_, w);
    }
    template <class Out>
    void from_eigen(Out&& w) const {
        smat(w, X_);
        Y_.noalias() = U_ * X_;
        X_.noalias() = Y_ * U_.transpose();
        svec(X_, w);
    }
    template <class Out>
    void weigh(Out&& u) const {
        to_eigen(u);
        for (Index k = 0; k < size; ++k) u(k) *= w(k);
        from_eigen(u);
    }

    // B (n x size) <- the columns A' (n x size) of the cone's rows times Q.  A row of A' with few entries, as where X itself is
    // the variable, is a sum of few outer products u_i u_j' of rows of U.
    void rotate(Eigen::Ref<const Matrix> A, Eigen::Ref<Matrix> B) const {
        for (Index j = 0; j < A.rows(); ++j) {
            row_of_A_ = A.row(j);
            const Index entries = (row_of_A_.array() != 0.0).count();
            if (entries > order) {
                to_eigen(row_of_A_);
            } else {
                X_.setZero();
                for (Index k = 0; k < size && entries > 0; ++k) {
                    if (row_of_A_(k) == 0.0) continue;
                    const double share = row_of_A_(k) * (row_[k] == column_[k] ? 0.5 : half);
                    X_.noalias() += share * U_.row(row_[k]).transpose() * U_.row(column_[k]);
                }
                Y_ = X_ + X_.transpose();
                svec(Y_, row_of_A_);
            }
            B.row(j) = row_of_A_;
        }
    }

private:
    static constexpr double half = 0.70710678118654752440;
    mutable Matrix X_, Y_;
    mutable Vector row_of_A_;
    Matrix U_;
    Integers row_, column_;

    template <class In>
    void smat(const In& w, Matrix& X) const {
        for (Index k = 0; k < size; ++k) {
            const Index i = row_[k], j = column_[k];
            X(i, j) = X(j, i) = i == j ? w(k) : half * w(k);
        }
    }
    template <class Out>
    void svec(const Matrix& X, Out&& w) const {
        for (Index k = 0; k < size; ++k) {
            const Index i = row_[k], j = column_[k];
            w(k) = i == j ? X(i, i) : half * (X(i, j) + X(j, i));
        }
    }
};

}  // namespace core
