// The two systems that are made of the rows A and the cones at a point:
//
//     on the path, where W is finite,    H = P + A'W A
//     for accurate steps, B = Q'A:       rows with w up to `most_weak` are weak in the sense of factor.hpp, H = P + B_w'W B_w,
//                                        the others are strong with T = 1 / w; those with w = 0 are left out
#pragma once

#include "../rows.hpp"
#include "grams.hpp"

namespace core {

// M += weight b b' on the variables `seen`, lower triangle
template <class Column>
void add_outer(const Column& b, double weight, const Integers& seen, MatrixRef M) {
    for (std::size_t i = 0; i < seen.size(); ++i) {
        const double scaled = weight * b(seen[i]);
        for (std::size_t j = i; j < seen.size(); ++j) M(seen[j], seen[i]) += scaled * b(seen[j]);
    }
}

struct Assembly {
    static constexpr double most_weak = 1e3;
    Integers strong, weak;  // rows of Q'A, in the order of the factor
    Matrix B;               // (Q'A)', n x rows
    Vector w;

    // M (n x n) += A'W A, lower triangle; C = A' (n x rows); mu > 0
    void add_weighted(const Cones& cones, const Matrix& C, const Grams& grams, MatrixRef M) {
        const Index n = C.rows();
        if (scratch_.rows() != n || scratch_.cols() < cones.rows) scratch_.resize(n, cones.rows);
        Index used = 0;
        for (Index i = cones.zeros; i < cones.orthant; ++i) {
            if (grams.few_in_row[i]) {
                add_outer(C.col(i), cones.w(i), grams.rows[i], M);
            } else {
                scratch_.col(used++) = std::sqrt(cones.w(i)) * C.col(i);
            }
        }
        for (std::size_t k = 0; k < cones.second_order.size(); ++k) {
            const SecondOrder& cone = cones.second_order[k];
            if (grams.of[k].size() == 0) {
                add_columns(cone, C, used);
                continue;
            }
            const double across = cone.w(2);
            M.triangularView<Eigen::Lower>() += across * grams.of[k];
            b_1_.resize(n), b_2_.resize(n);
            cone.axes(C.middleCols(cone.first, cone.size), b_1_, b_2_);
            M.selfadjointView<Eigen::Lower>().rankUpdate(b_1_, cone.w(0) - across);
            M.selfadjointView<Eigen::Lower>().rankUpdate(b_2_, cone.w(1) - across);
        }
        for (const Semidefinite& cone : cones.semidefinite) add_columns(cone, C, used);
        std::size_t k = 0;
        cones.each_three([&](const auto& cone) {
            if (grams.few_in_three[k]) {
                add_triple(cone.W(), C.middleCols(cone.first, cone.size), grams.threes[k], M);
            } else {
                add_columns(cone, C, used);
            }
            ++k;
        });
        if (used > 0) M.selfadjointView<Eigen::Lower>().rankUpdate(scratch_.leftCols(used));
    }

    // The rows of Q'A as strong, weak, or left out; and H (n x n) += their weak part.
    void split(const Cones& cones, const Matrix& C, const Grams& grams, Rows& strong_rows, Rows& weak_rows, Vector& T,
               Vector& W, MatrixRef H) {
        const Index n = C.rows();
        B.resize(n, cones.rows);
        B.leftCols(cones.orthant) = C.leftCols(cones.orthant);
        cones.each([&](const auto& cone) {
            cone.rotate(C.middleCols(cone.first, cone.size), B.middleCols(cone.first, cone.size));
        });
        cones.weights(w);
        strong.clear();
        weak.clear();
        for (Index i = 0; i < cones.rows; ++i) {
            if (w(i) > most_weak) strong.push_back(i);
            if (w(i) > 0.0 && !(w(i) > most_weak)) weak.push_back(i);
        }
        gather(n, strong, strong_rows);
        gather(n, weak, weak_rows);
        T.resize(count(strong));
        W.resize(count(weak));
        for (Index k = 0; k < T.size(); ++k) T(k) = 1.0 / w(strong[k]);
        for (Index k = 0; k < W.size(); ++k) W(k) = w(weak[k]);
        add_weak(cones, grams, H);
    }

private:
    Matrix scratch_;
    Vector b_1_, b_2_;

    void gather(Index n, const Integers& ids, Rows& out) const {
        out.reset(n, count(ids));
        for (const Index id : ids) out.add_general(B.col(id));
    }

    template <class Cone>
    void add_columns(const Cone& cone, const Matrix& C, Index& used) {
        auto columns = scratch_.middleCols(used, cone.size);
        cone.rotate(C.middleCols(cone.first, cone.size), columns);
        for (Index k = 0; k < cone.size; ++k) columns.col(k) *= std::sqrt(cone.w(k));
        used += cone.size;
    }

    // M += A'W A on the variables `seen`; A' (n x 3)
    static void add_triple(const Matrix3& W, Eigen::Ref<const Matrix> A, const Integers& seen, MatrixRef M) {
        for (std::size_t i = 0; i < seen.size(); ++i) {
            const Vector3 weighed = W * A.row(seen[i]).transpose();
            for (std::size_t j = i; j < seen.size(); ++j) M(seen[j], seen[i]) += A.row(seen[j]).dot(weighed);
        }
    }

    double weak_weight(Index row) const { return w(row) > most_weak ? 0.0 : w(row); }

    void add_weak(const Cones& cones, const Grams& grams, MatrixRef H) {
        const Index n = B.rows();
        if (scratch_.rows() != n || scratch_.cols() < cones.rows) scratch_.resize(n, cones.rows);
        Index used = 0;
        const auto take = [&](Index row) {
            if (weak_weight(row) > 0.0) scratch_.col(used++) = std::sqrt(w(row)) * B.col(row);
        };
        for (Index i = cones.zeros; i < cones.orthant; ++i) {
            if (grams.few_in_row[i]) {
                if (weak_weight(i) > 0.0) add_outer(B.col(i), w(i), grams.rows[i], H);
            } else {
                take(i);
            }
        }
        for (std::size_t k = 0; k < cones.second_order.size(); ++k) {
            const SecondOrder& cone = cones.second_order[k];
            const double across = cone.size > 2 ? weak_weight(cone.first + 2) : 0.0;
            if (grams.of[k].size() == 0 || across == 0.0) {
                for (Index i = 0; i < cone.size; ++i) take(cone.first + i);
                continue;
            }
            H.triangularView<Eigen::Lower>() += across * grams.of[k];
            for (const Index i : {cone.first, cone.first + 1}) {
                H.selfadjointView<Eigen::Lower>().rankUpdate(B.col(i), weak_weight(i) - across);
            }
        }
        for (const Semidefinite& cone : cones.semidefinite) {
            for (Index i = 0; i < cone.size; ++i) take(cone.first + i);
        }
        std::size_t k = 0;
        cones.each_three([&](const auto& cone) {
            for (Index i = cone.first; i < cone.first + cone.size; ++i) {
                if (!grams.few_in_three[k]) {
                    take(i);
                } else if (weak_weight(i) > 0.0) {
                    add_outer(B.col(i), w(i), grams.threes[k], H);
                }
            }
            ++k;
        });
        if (used > 0) H.selfadjointView<Eigen::Lower>().rankUpdate(scratch_.leftCols(used));
    }
};

}  // namespace core
