// The KKT system at a point, as two Cholesky factors.
//
// Rows i of the stacked [A; G; -I; I] enter with T_i = s_i / z_i: 0 for equalities and for active rows at mu = 0; on the
// central path every inequality row enters.  Rows with large T_i are `weak` and eliminated, W = 1 / T; the others are `strong`:
//
//     [P  B']   (a)   (r1)          H = P + B_w' W B_w,    r1 + B_w' W r2_w
//     [B -T ]   (y) = (r2)          y_w = W (B_w a - r2_w)
//
// The strong ones stay in a saddle system, which is made definite by adding B'G times its second row to its first, and
// scaling the second by C = I - G T (dcl/kkt/dense.py; exact for every G with G T < 1):
//
//     M = H + B'G B = L1 L1',      Q = C B M^-1 B'C + C T = L2 L2',      G = 0 where P > 0 and T = 0
//
// M fails where x is not unique, Q where active rows are dependent.
//
// Small L1 and L2 are inverted: a triangular solve waits for one division after the other, a product with the inverse does
// not, and takes a quarter of the time at n = 10; at n = 50 the inversion costs what it saves.  The inverses bound the condition of S too (condition.hpp).  What they lose
// in digits the next Newton step or refinement brings back, and residuals tell.
#pragma once

#include "rows.hpp"

namespace core {

// r - sum of products, in about twice the working precision (Ogita, Rump, Oishi 2005, Dot2).
struct Compensated {
    Vector high, low;

    void start(ConstVectorRef r) {
        high = r;
        low.setZero(r.size());
    }

    // subtract column * factor from the entries 0 .. size of the sums
    void subtract(const double* column, double factor, Index size) {
        double* const h = high.data();
        double* const l = low.data();
        for (Index i = 0; i < size; ++i) {
            const double product = -column[i] * factor;
            const double error = std::fma(-column[i], factor, -product);
            const double sum = h[i] + product;
            const double back = sum - h[i];
            l[i] += ((h[i] - (sum - back)) + (product - back)) + error;
            h[i] = sum;
        }
    }

    void subtract_at(Index i, double a, double b) {
        const double product = -a * b;
        const double error = std::fma(-a, b, -product);
        const double sum = high(i) + product;
        const double back = sum - high(i);
        low(i) += ((high(i) - (sum - back)) + (product - back)) + error;
        high(i) = sum;
    }
};

struct Factor {
    MatrixView P{nullptr, 0, 0};
    double P_scale = 1.0;
    Rows strong, weak;
    Vector T, W;  // of the strong, of the weak rows
    Vector G;     // empty where it is zero
    MatrixView L1{nullptr, 0, 0}, L2{nullptr, 0, 0};
    Matrix K1, K2;  // L1^-1 and L2^-1 where they are `inverted`
    bool inverted = false;

    Index n() const { return P.rows(); }
    Index size() const { return strong.size() + weak.size(); }

    void set(const double* curvature, Index variables, double scale) {
        new (&P) MatrixView(curvature, variables, variables);
        P_scale = scale;
    }
    // At mu = 0: `ids`, equalities and active rows, are strong and nothing is weak.
    void at_active_set(const Program& program, const Integers& ids) {
        set(program.P->data(), program.n, 1.0);
        strong.gather(program, ids);
        weak.reset(program.n, 0);
        T.setZero(count(ids));
        W.resize(0);
        G.resize(0);
    }
    // often: for more than two solves
    void set_factors(const double* first, const double* second, bool often) {
        set_first(first, often);
        set_second(second);
    }
    void set_first(const double* first, bool often) {
        new (&L1) MatrixView(first, n(), n());
        inverted = often && n() <= small;
        if (inverted) invert_lower(L1, K1);
    }
    void set_second(const double* second) {
        new (&L2) MatrixView(second, strong.size(), strong.size());
        if (inverted) invert_lower(L2, K2);
    }

    // b <- M^-1 b
    void divide(VectorRef b) const { divide(L1, K1, b); }

    // G of the header for P that is not definite, from the diagonal of H.
    void choose_weights(double largest) {
        const Index k = strong.size();
        G.resize(k);
        const double scale = largest > 0.0 ? largest : 1.0;
        for (Index i = 0; i < k; ++i) {
            const double length = i < strong.general ? strong.Bt.col(i).squaredNorm() : 1.0;
            G(i) = scale / (length > 0.0 ? length : 1.0);
            if (T(i) > 0.0) G(i) = std::min(G(i), 0.5 / T(i));
        }
    }

    // M into `first` (n x n) and Q into `second` (k x k), factored there; false where one of them is not definite.
    bool compute(MatrixRef first, MatrixRef second, Matrix& scratch) {
        first.triangularView<Eigen::Lower>() = P_scale * P;
        if (weak.size() > 0) weak.add_gram(W, first, scratch);
        return condense(first, second, scratch);
    }

    // The same with H in the lower triangle of `first`.
    bool condense(MatrixRef first, MatrixRef second, Matrix& scratch) {
        const Index k = strong.size();
        choose_weights(first.diagonal().size() ? first.diagonal().maxCoeff() : 0.0);
        if (k > 0) strong.add_gram(G, first, scratch);
        if (!cholesky(first)) return false;
        if (k == 0) return true;
        if (scratch.rows() != n() || scratch.cols() < k) scratch.resize(n(), k);
        auto V = scratch.leftCols(k);
        V.leftCols(strong.general) = strong.columns();
        V.rightCols(k - strong.general).setZero();
        for (Index j = 0; j < count(strong.variable); ++j) {
            V(strong.variable[j], strong.general + j) = strong.sign[j];
        }
        for (Index i = 0; i < k; ++i) {
            if (T(i) > 0.0) V.col(i) *= 1.0 - G(i) * T(i);
        }
        solve_lower(first, V);
        second.triangularView<Eigen::Lower>().setZero();
        second.selfadjointView<Eigen::Lower>().rankUpdate(V.transpose());
        for (Index i = 0; i < k; ++i) second(i, i) += (1.0 - G(i) * T(i)) * T(i);
        return cholesky(second);
    }

    // (a, y) = K^-1 (r1, r2) by the factors, without refinement; rows in the order strong, weak.
    void once(ConstVectorRef r1, ConstVectorRef r2, VectorRef a, VectorRef y) const {
        const Index k = strong.size(), w = weak.size();
        a = r1;
        if (w > 0) {
            y.tail(w) = W.cwiseProduct(r2.tail(w));
            weak.add_transposed(y.tail(w), a);
        }
        if (k > 0) {
            if (G.size() > 0) {
                y.head(k) = G.cwiseProduct(r2.head(k));
                strong.add_transposed(y.head(k), a);
            }
            right_ = a;
            divide(L1, K1, right_);
            strong.times(right_, y.head(k));
            y.head(k) -= r2.head(k);
            if (G.size() > 0) y.head(k).array() *= 1.0 - G.array() * T.array();
            divide(L2, K2, y.head(k));
            if (G.size() > 0) {
                scaled_ = -((1.0 - G.array() * T.array()) * y.head(k).array()).matrix();
            } else {
                scaled_ = -y.head(k);
            }
            strong.add_transposed(scaled_, a);
        }
        divide(L1, K1, a);
        if (w > 0) {
            scaled_.resize(w);
            weak.times(a, scaled_);
            y.tail(w) = W.cwiseProduct(scaled_ - r2.tail(w));
        }
    }

    // (s1, s2) = K (a, y)
    void multiply(ConstVectorRef a, ConstVectorRef y, VectorRef s1, VectorRef s2) const {
        const Index k = strong.size(), w = weak.size();
        s1.noalias() = P_scale * (P * a);
        if (k > 0) {
            strong.add_transposed(y.head(k), s1);
            strong.times(a, s2.head(k));
            s2.head(k) -= T.cwiseProduct(y.head(k));
        }
        if (w > 0) {
            weak.add_transposed(y.tail(w), s1);
            weak.times(a, s2.tail(w));
            s2.tail(w) -= y.tail(w).cwiseQuotient(W);
        }
    }

    // (s1, s2) = (r1, r2) - K (a, y), with compensated sums.
    void residual(ConstVectorRef r1, ConstVectorRef r2, ConstVectorRef a, ConstVectorRef y, VectorRef s1, VectorRef s2) const {
        first_.start(r1);
        second_.start(r2);
        for (Index j = 0; j < n(); ++j) first_.subtract(P.data() + j * n(), P_scale * a(j), n());
        exact_rows(strong, 0, a, y);
        exact_rows(weak, strong.size(), a, y);
        for (Index i = 0; i < strong.size(); ++i) second_.subtract_at(i, -T(i), y(i));
        for (Index i = 0; i < weak.size(); ++i) {
            const Index at = strong.size() + i;
            second_.high(at) += y(at) / W(i);
        }
        s1 = first_.high + first_.low;
        s2 = second_.high + second_.low;
    }

private:
    mutable Vector right_, scaled_, half_;
    mutable Compensated first_, second_;

    // b <- (L L')^-1 b
    void divide(const MatrixView& L, const Matrix& K, VectorRef b) const {
        if (inverted) {
            half_.noalias() = K * b;
            b.noalias() = K.transpose() * half_;
        } else {
            solve_lower(L, b);
            solve_upper(L, b);
        }
    }

    void exact_rows(const Rows& rows, Index start, ConstVectorRef a, ConstVectorRef y) const {
        for (Index i = 0; i < rows.general; ++i) {
            const double* const column = rows.Bt.data() + i * n();
            first_.subtract(column, y(start + i), n());
            for (Index j = 0; j < n(); ++j) second_.subtract_at(start + i, column[j], a(j));
        }
        for (Index k = 0; k < count(rows.variable); ++k) {
            const Index i = start + rows.general + k;
            first_.subtract_at(rows.variable[k], rows.sign[k], y(i));
            second_.subtract_at(i, rows.sign[k], a(rows.variable[k]));
        }
    }
};

}  // namespace core
