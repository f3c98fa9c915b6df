// Some of the stacked rows [A; G; -I; I], gathered: B (k x n) is kept as the columns of its general rows, and the bounds.
#pragma once

#include "data.hpp"

namespace core {

struct Rows {
    Matrix Bt;  // n x (general): general rows as columns
    Index n = 0, general = 0;
    Integers variable;  // of each bound
    std::vector<double> sign;

    Index size() const { return general + count(variable); }

    void reset(Index variables, Index capacity) {
        n = variables;
        general = 0;
        if (Bt.rows() != n || Bt.cols() < capacity) Bt.resize(n, capacity);
        variable.clear();
        sign.clear();
    }

    template <class Column>
    void add_general(const Column& column) {
        Bt.col(general++) = column;
    }

    void add_bound(Index j, double s) {
        variable.push_back(j);
        sign.push_back(s);
    }

    // Rows `ids`, general ones first, of a program.
    void gather(const Program& program, const Integers& ids) {
        reset(program.n, count(ids));
        for (const Index row : ids) {
            if (row < program.p + program.m) {
                add_general(program.C().col(row));
            } else {
                add_bound(program.variable(row), program.is_lower(row) ? -1.0 : 1.0);
            }
        }
    }

    auto columns() const { return Bt.leftCols(general); }

    // out = B x
    template <class X, class Out>
    void times(const X& x, Out&& out) const {
        out.head(general).noalias() = columns().transpose() * x;
        for (Index k = 0; k < count(variable); ++k) out(general + k) = sign[k] * x(variable[k]);
    }

    // out += B'y
    template <class Y, class Out>
    void add_transposed(const Y& y, Out&& out) const {
        if (general > 0) out.noalias() += columns() * y.head(general);
        for (Index k = 0; k < count(variable); ++k) out(variable[k]) += sign[k] * y(general + k);
    }

    // M += B' diag(w) B, lower triangle; scratch: n x general or more
    void add_gram(ConstVectorRef w, MatrixRef M, Matrix& scratch) const {
        if (general > 0) {
            if (scratch.rows() != n || scratch.cols() < general) scratch.resize(n, general);
            scratch.leftCols(general).noalias() = columns() * w.head(general).cwiseSqrt().asDiagonal();
            M.selfadjointView<Eigen::Lower>().rankUpdate(scratch.leftCols(general));
        }
        for (Index k = 0; k < count(variable); ++k) M(variable[k], variable[k]) += w(general + k);
    }
};

}  // namespace core
