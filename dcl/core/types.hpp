// Eigen's types, spelled out once.  Matrices are stored by columns; a row-major block of the caller is read as its transpose.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include <Eigen/Cholesky>
#include <Eigen/Core>

namespace core {

using Index = Eigen::Index;
using Matrix = Eigen::MatrixXd;
using Vector = Eigen::VectorXd;
using Integers = std::vector<Index>;
using MatrixView = Eigen::Map<const Matrix>;
using VectorView = Eigen::Map<const Vector>;
using MatrixRef = Eigen::Ref<Matrix>;
using VectorRef = Eigen::Ref<Vector>;
using ConstMatrixRef = Eigen::Ref<const Matrix>;
using ConstVectorRef = Eigen::Ref<const Vector>;

// Sizes of lists, signed as all indices are.
template <class T>
Index count(const std::vector<T>& list) {
    return static_cast<Index>(list.size());
}

inline constexpr double infinity = std::numeric_limits<double>::infinity();

// Largest absolute entry, 0 of an empty vector.
template <class Derived>
double magnitude(const Eigen::DenseBase<Derived>& t) {
    return t.size() == 0 ? 0.0 : t.derived().array().abs().maxCoeff();
}

// What Eigen does by packing and blocking, plain loops do in half of the time where the matrices are small.
inline constexpr Index small = 24;

// Lower Cholesky factor of the lower triangle of M, in place; false where M is not positive definite.
// floor: the smallest square of a pivot that counts as positive.
inline bool cholesky(MatrixRef M, double floor = 0.0) {
    const Index n = M.rows();
    if (n == 0) return true;
    if (n <= small) {
        for (Index k = 0; k < n; ++k) {
            double* const column = M.data() + k * M.outerStride();
            if (!(column[k] > floor)) return false;
            column[k] = std::sqrt(column[k]);
            const double pivot = 1.0 / column[k];
            for (Index i = k + 1; i < n; ++i) column[i] *= pivot;
            for (Index j = k + 1; j < n; ++j) {
                double* const other = M.data() + j * M.outerStride();
                const double t = column[j];
                for (Index i = j; i < n; ++i) other[i] -= t * column[i];
            }
        }
        return true;
    }
    const Eigen::LLT<MatrixRef> llt(M);
    return llt.info() == Eigen::Success && M.diagonal().array().square().minCoeff() > floor;
}

// b <- L^-1 b and b <- L^-T b.
template <class Factor, class Right>
void solve_lower(const Factor& L, Right&& b) {
    if (L.rows() > 0 && b.cols() > 0) L.template triangularView<Eigen::Lower>().solveInPlace(b);
}
template <class Factor, class Right>
void solve_upper(const Factor& L, Right&& b) {
    if (L.rows() == 0 || b.cols() == 0) return;
    if constexpr (std::decay_t<Right>::ColsAtCompileTime == 1) {
        if (L.rows() <= small) {  // by rows of L: sums of products would wait for each other
            for (Index j = L.rows() - 1; j >= 0; --j) {
                const double t = b(j) /= L.coeff(j, j);
                for (Index i = 0; i < j; ++i) b(i) -= L.coeff(j, i) * t;
            }
            return;
        }
    }
    L.template triangularView<Eigen::Lower>().transpose().solveInPlace(b);
}

// K = L^-1, lower triangular.
inline void invert_lower(const MatrixView& L, Matrix& K) {
    const Index n = L.rows();
    K.setIdentity(n, n);
    for (Index k = 0; k < n; ++k) {
        const double* const column = L.data() + k * n;
        const double pivot = 1.0 / column[k];
        for (Index j = 0; j <= k; ++j) {
            double* const x = K.data() + j * n;
            const double t = x[k] *= pivot;
            for (Index i = k + 1; i < n; ++i) x[i] -= t * column[i];
        }
    }
}

// N <- N + sign V'V, the lower triangle.
template <class Columns>
void add_gram(const Columns& V, double sign, Matrix& N) {
    const Index r = V.cols();
    if (V.rows() == 0 || r == 0) return;
    if (V.rows() > small || r > small) {
        N.selfadjointView<Eigen::Lower>().rankUpdate(V.transpose(), sign);
        return;
    }
    for (Index j = 0; j < r; ++j) {
        for (Index i = j; i < r; ++i) N(i, j) += sign * V.col(i).dot(V.col(j));
    }
}

}  // namespace core
