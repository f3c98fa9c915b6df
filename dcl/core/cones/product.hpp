// K, a product of cones, at a point v: its projection, D = dz/dv and W = D (I - D)^-1, cone by cone.
//
//     rows: zero (D = I), nonnegative (h = 4 mu), then second-order, semidefinite and exponential cones in the order given
//     D = Q diag(d) Q',   w = d / (1 - d);   coordinate k of Q'y stands in row k
//
// Two systems are made of them.  On the path, where W is finite, H = P + A'W A.  For accurate steps the rows B = Q'A of the cones
// with finite w up to `most_weak` are weak in the sense of factor.hpp, others strong with T = 1 / w; those with w = 0 are left out.
#pragma once

#include "../rows.hpp"
#include "exponential.hpp"
#include "second_order.hpp"
#include "semidefinite.hpp"

namespace core {

// A kind of cone; its size is as dcl/cones/base.py counts blocks, of semidefinite cones the order.
// upper, lower: the triangle that the rows of a semidefinite cone are, column by column.
enum class Kind : std::int64_t { zero = 0, nonnegative = 1, second_order = 2, upper = 3, lower = 4, exponential = 5 };

struct Cones {
    Index zeros = 0, orthant = 0, rows = 0;  // zero rows, zero and nonnegative rows, all rows
    Index degree = 0;
    std::vector<SecondOrder> second_order;
    std::vector<Semidefinite> semidefinite;
    std::vector<Exponential> exponential;

    // A call of each block, in the order of the rows.
    void add(Kind kind, Index size, Index count) {
        if (kind == Kind::zero || kind == Kind::nonnegative) {
            if (kind == Kind::zero) zeros += size;
            if (kind == Kind::nonnegative) degree += size;
            orthant += size;
            rows += size;
            return;
        }
        for (Index k = 0; k < count; ++k) {
            if (kind == Kind::second_order) {
                second_order.emplace_back(rows, size);
                degree += 2;
                rows += size;
            } else if (kind == Kind::exponential) {
                exponential.emplace_back(rows);
                degree += 3;
                rows += 3;
            } else {
                semidefinite.emplace_back(rows, size, kind == Kind::lower);
                degree += size;
                rows += semidefinite.back().size;
            }
        }
    }

    template <class Function>
    void each(Function&& f) const {
        for (const SecondOrder& cone : second_order) f(cone);
        for (const Semidefinite& cone : semidefinite) f(cone);
        for (const Exponential& cone : exponential) f(cone);
    }

    // The state at v, and z there.
    void evaluate(ConstVectorRef v, double mu, VectorRef z) {
        h_ = 4.0 * mu;
        v_ = v;
        z.head(zeros) = v.head(zeros);
        for (Index i = zeros; i < orthant; ++i) z(i) = image(v(i), h_);
        const auto one = [&](auto& cone) { cone.evaluate(v.segment(cone.first, cone.size), mu, z.segment(cone.first, cone.size)); };
        for (SecondOrder& cone : second_order) one(cone);
        for (Semidefinite& cone : semidefinite) one(cone);
        for (Exponential& cone : exponential) one(cone);
    }

    double d(Index row) const { return row < zeros ? 1.0 : slope(v_(row), v_(row), h_); }
    double w(Index row) const { return row < zeros ? infinity : weight(v_(row), v_(row), h_); }

    void to_eigen(VectorRef w) const {
        each([&](const auto& cone) { cone.to_eigen(w.segment(cone.first, cone.size)); });
    }
    void from_eigen(VectorRef w) const {
        each([&](const auto& cone) { cone.from_eigen(w.segment(cone.first, cone.size)); });
    }

    // All d, and all w.
    void slopes(Vector& out) const {
        out.resize(rows);
        for (Index i = 0; i < orthant; ++i) out(i) = d(i);
        each([&](const auto& cone) {
            for (Index k = 0; k < cone.size; ++k) out(cone.first + k) = cone.d(k);
        });
    }
    void weights(Vector& out) const {
        out.resize(rows);
        for (Index i = 0; i < orthant; ++i) out(i) = w(i);
        each([&](const auto& cone) {
            for (Index k = 0; k < cone.size; ++k) out(cone.first + k) = cone.w(k);
        });
    }

    // u <- W u, 0 on zero rows; mu > 0
    void weigh(VectorRef u) const {
        u.head(zeros).setZero();
        for (Index i = zeros; i < orthant; ++i) u(i) *= w(i);
        each([&](const auto& cone) { cone.weigh(u.segment(cone.first, cone.size)); });
    }

private:
    Vector v_;
    double h_ = 0.0;
};

// What is made once of the rows: A'A of those second-order cones that are large enough for it to pay, and which variables a row
// of the orthant, or an exponential cone, sees, where these are few.
struct Grams {
    static constexpr Index smallest = 8;
    std::vector<Matrix> of;  // by second-order cone, empty for small ones
    std::vector<Integers> rows, exponential;
    std::vector<char> few_in_row, few_in_exponential;

    void compute(const Cones& cones, const Matrix& C) {
        of.resize(cones.second_order.size());
        for (std::size_t k = 0; k < of.size(); ++k) {
            const SecondOrder& cone = cones.second_order[k];
            const Index n = cone.size < smallest ? 0 : C.rows();
            of[k].setZero(n, n);
            if (n == 0) continue;
            of[k].selfadjointView<Eigen::Lower>().rankUpdate(C.middleCols(cone.first, cone.size));
        }
        rows.resize(static_cast<std::size_t>(cones.orthant));
        few_in_row.resize(rows.size());
        for (Index i = cones.zeros; i < cones.orthant; ++i) few_in_row[i] = list(C.col(i), rows[i]);
        exponential.resize(cones.exponential.size());
        few_in_exponential.resize(exponential.size());
        for (std::size_t k = 0; k < exponential.size(); ++k) {
            few_in_exponential[k] = list(C.middleCols(cones.exponential[k].first, 3), exponential[k]);
        }
    }

private:
    // The rows of A' with entries; are they few?
    template <class Columns>
    static char list(const Columns& A, Integers& seen) {
        seen.clear();
        for (Index j = 0; j < A.rows(); ++j) {
            if ((A.row(j).array() != 0.0).any()) seen.push_back(j);
        }
        return count(seen) <= A.rows() / 4 ? 1 : 0;
    }
};

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
        for (std::size_t k = 0; k < cones.exponential.size(); ++k) {
            const Exponential& cone = cones.exponential[k];
            if (grams.few_in_exponential[k]) {
                add_triple(cone.W(), C.middleCols(cone.first, 3), grams.exponential[k], M);
            } else {
                add_columns(cone, C, used);
            }
        }
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
        for (std::size_t k = 0; k < cones.exponential.size(); ++k) {
            for (Index i = cones.exponential[k].first; i < cones.exponential[k].first + 3; ++i) {
                if (!grams.few_in_exponential[k]) {
                    take(i);
                } else if (weak_weight(i) > 0.0) {
                    add_outer(B.col(i), w(i), grams.exponential[k], H);
                }
            }
        }
        if (used > 0) H.selfadjointView<Eigen::Lower>().rankUpdate(scratch_.leftCols(used));
    }
};

}  // namespace core
