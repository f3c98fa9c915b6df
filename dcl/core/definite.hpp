// P > 0: from the data to an active set, its point and its factor (elimination.hpp, pivoting.hpp).
//
//     L1 = L of P,    L2 = [[L_A, 0], [Y_F', L_F]]  with  L_F L_F' = N_FF,     x = -P^-1 (q + B'y),  y = (L_A^-T (u - Y_F w), w)
//
// are the pair of factor.hpp with G = 0, rows at a lower bound with their sign: nothing is factored twice.
#pragma once

#include "dual.hpp"
#include "pivoting.hpp"
#include "record.hpp"
#include "start.hpp"

namespace core {

struct DefiniteSolver {
    Pivoting pivoting;
    Dual dual;  // of the program; known: the elimination in use, nullptr where none could be made

    // L: of P.  known: the elimination if the batch shares it, else nullptr.  The point, L2 and the factor, which refers to
    // L and L2; false where no active set was found.
    bool solve(const Program& program, const Matrix& L, const Elimination* known, const Start& start, Point& point, Matrix& L2,
               Factor& factor) {
        const Index n = program.n, p = program.p;
        const bool bounds = program.lower + program.upper > 0;
        dual.known = nullptr;
        pivoting.steps = 0;
        if (known == nullptr) {
            if (p > n || !own_.compute(L, program.C(), p, bounds)) return false;
            known = &own_;
        }
        factor.set(program.P->data(), n, 1.0);
        factor.set_first(L.data(), true);
        dual.compute(program, factor, *known);
        set_sides(program, start, known->N.rows());
        if (!pivoting.solve(known->N, dual.a_0, n - p)) return false;
        list_rows(program, point.strong);
        factor.at_active_set(program, point.strong);
        multipliers(*known, p, point.y);
        assemble(*known, p, L2);
        factor.set_second(L2.data());
        point.x = -program.q;
        minus_ = -point.y;
        factor.strong.add_transposed(minus_, point.x);
        factor.divide(point.x);
        return true;
    }

private:
    Elimination own_;
    Vector minus_;

    // lo, hi and the state in which pivoting starts
    void set_sides(const Program& program, const Start& start, Index r) {
        const Index p = program.p, m = program.m, n = program.n;
        pivoting.lo.setConstant(r, -infinity);
        pivoting.hi.setConstant(r, infinity);
        pivoting.state.assign(static_cast<std::size_t>(r), 0);
        for (Index i = 0; i < m; ++i) {
            if (!program.binds(p + i)) continue;
            pivoting.hi(i) = program.side(p + i);
            if (start.is_active(p + i)) pivoting.state[i] = 1;
        }
        for (Index j = 0; j < n && r > m; ++j) {
            const Index low = program.first_lower() + j, high = program.first_upper() + j;
            auto& state = pivoting.state[m + j];
            if (program.lower > 0 && program.binds(low)) {
                pivoting.lo(m + j) = -program.side(low);
                if (start.is_active(low)) state = -1;
            }
            if (program.upper > 0 && program.binds(high)) {
                pivoting.hi(m + j) = program.side(high);
                if (start.is_active(high)) state = 1;
            }
        }
    }

    // Equalities and active rows, as rows of the stacked [A; G; -I; I].
    void list_rows(const Program& program, Integers& strong) const {
        strong.clear();
        for (Index i = 0; i < program.p; ++i) strong.push_back(i);
        for (const Index row : pivoting.active) {
            const Index j = row - program.m;
            const bool low = pivoting.state[row] < 0;
            strong.push_back(j < 0 ? program.p + row : (low ? program.first_lower() : program.first_upper()) + j);
        }
    }

    void multipliers(const Elimination& known, Index p, Vector& y) const {
        const Index active = count(pivoting.active);
        y.resize(p + active);
        y.head(p) = dual.u;
        for (Index j = 0; j < active; ++j) {
            const Index row = pivoting.active[j];
            y(p + j) = pivoting.state[row] * pivoting.w(j);
            if (p > 0) y.head(p) -= pivoting.w(j) * known.Y.col(row);
        }
        if (p > 0) solve_upper(known.L_A, y.head(p));
    }

    void assemble(const Elimination& known, Index p, Matrix& L2) const {
        const Index active = count(pivoting.active);
        L2.resize(p + active, p + active);
        L2.topLeftCorner(p, p) = known.L_A;
        for (Index j = 0; j < active; ++j) {
            const Index row = pivoting.active[j];
            const double sign = pivoting.state[row];
            if (p > 0) L2.row(p + j).head(p) = sign * known.Y.col(row).transpose();
            for (Index i = 0; i <= j; ++i) {
                L2(p + j, p + i) = sign * pivoting.state[pivoting.active[i]] * pivoting.L(j, i);
            }
        }
    }
};

}  // namespace core
