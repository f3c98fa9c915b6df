// The active set of the program of elimination.hpp:   a = a_0 - N w,   lo <= a <= hi,
//
//     w_i > 0 only where a_i = hi_i,    w_i < 0 only where a_i = lo_i
//
// Block principal pivoting (Kostreva 1978; Judice and Pires 1994): all rows that are wrong change sides at once, as long as
// their number falls.  Of the n - p free dimensions no more than half of those left are filled at once.
//
// After `patience` steps without a new minimum, the dual active set method (Goldfarb and Idnani 1983) goes on from the best
// set, without the rows of it whose multiplier has the wrong sign: the most violated row enters, and rows whose multiplier
// would change its sign leave on the way.  It ends for every feasible program.
#pragma once

#include "elimination.hpp"

namespace core {

struct Pivoting {
    std::vector<signed char> state;  // of each row: 1 at hi, -1 at lo, 0 inside
    Integers active;                 // in rising order
    Vector w, a, lo, hi;             // w of `active`, the others of all rows
    Matrix L;                        // Cholesky factor of N on `active`, of size capacity
    Index steps = 0;

    // room: n - p.  a_0, lo, hi are set.  `state` says where to start.  False: no active set was found.
    bool solve(const Matrix& N, ConstVectorRef a_0, Index room) {
        const Index r = N.rows();
        steps = 0;
        if (L.rows() < std::min(room, r)) L.resize(std::min(room, r), std::min(room, r));
        a.resize(r);
        if (block(N, a_0, room)) return true;
        return dual(N, a_0, room) && at(N, a_0);
    }

private:
    // Rows this near to their side, and multipliers this near to zero, are not moved; certify.hpp looks closer.
    static constexpr double tolerance = 1e-10;
    static constexpr int patience = 3;
    static constexpr Index most_steps = 20;
    std::vector<std::pair<double, Index>> wrong_;
    std::vector<signed char> best_;

    double side(Index i) const { return state[i] > 0 ? hi(i) : lo(i); }

    void list_active() {
        active.clear();
        for (Index i = 0; i < count(state); ++i) {
            if (state[i] != 0) active.push_back(i);
        }
    }

    // w and a for the sides in `state`; false where the rows are dependent.
    bool at(const Matrix& N, ConstVectorRef a_0) {
        list_active();
        const Index k = count(active);
        if (k > L.rows()) return false;
        w.resize(k);
        for (Index j = 0; j < k; ++j) {
            const Index row = active[j];
            const double* const column = N.data() + row * N.rows();
            for (Index i = j; i < k; ++i) L(i, j) = column[active[i]];
            w(j) = a_0(row) - side(row);
        }
        auto factor = L.topLeftCorner(k, k);
        if (!cholesky(factor, 1e-13 * magnitude(factor.diagonal()))) return false;
        solve_lower(factor, w.head(k));
        solve_upper(factor, w.head(k));
        a = a_0;
        for (Index j = 0; j < k; ++j) a -= w(j) * N.col(active[j]);
        return true;
    }

    // How far row i is outside of lo <= a <= hi; negative below lo.
    double violation(Index i) const {
        if (a(i) > hi(i)) return a(i) - hi(i);
        return a(i) < lo(i) ? a(i) - lo(i) : 0.0;
    }

    bool block(const Matrix& N, ConstVectorRef a_0, Index room) {
        Index fewest = std::numeric_limits<Index>::max();
        int tries = patience;
        best_.assign(state.size(), 0);
        for (; steps < most_steps; ++steps) {
            if (!at(N, a_0)) return false;
            Index leaving = 0, entering = 0;
            wrong_.clear();
            for (Index j = 0; j < count(active); ++j) {
                const Index row = active[j];
                if (w(j) * state[row] < -tolerance) {
                    ++leaving;
                }
            }
            for (Index i = 0; i < a.size(); ++i) {
                if (state[i] != 0) continue;
                const double outside = violation(i);
                if (std::abs(outside) > tolerance) {
                    ++entering;
                    wrong_.emplace_back(outside * outside / std::max(N(i, i), 1e-300), i);
                }
            }
            if (leaving + entering == 0) return true;
            const bool better = leaving + entering < fewest;
            if (better) fewest = leaving + entering, best_ = state;
            tries = better ? patience : tries - 1;
            if (tries < 0) return false;
            const Index left = room - (count(active) - leaving);
            const Index most = std::max<Index>((left + 1) / 2, 1);
            for (Index j = 0; j < count(active); ++j) {
                const Index row = active[j];
                if (w(j) * state[row] < -tolerance) {
                    state[row] = 0;
                }
            }
            if (entering > 0 && left == 0) return false;
            if (entering > most) {
                std::nth_element(wrong_.begin(), wrong_.begin() + most - 1, wrong_.end(),
                                 [](const auto& one, const auto& other) { return one > other; });
                wrong_.resize(static_cast<std::size_t>(most));
            }
            for (const auto& entry : wrong_) flip(entry.second);
        }
        return false;
    }

    // An inactive row goes to the side that it violates, an active one inside.
    void flip(Index i) {
        auto& where = state[i];
        where = static_cast<signed char>(where != 0 ? 0 : (a(i) > hi(i) ? 1 : -1));
    }

    // Rows of the state whose multiplier has the wrong sign leave, until none has: w and a of what is left.
    bool keep_right_signs(const Matrix& N, ConstVectorRef a_0) {
        while (true) {
            if (!at(N, a_0)) return false;
            bool all = true;
            for (Index j = 0; j < count(active); ++j) {
                auto& where = state[active[j]];
                if (w(j) * where < 0.0) where = 0, all = false;
            }
            if (all) return true;
        }
    }

    bool dual(const Matrix& N, ConstVectorRef a_0, Index room) {
        const Index r = N.rows();
        state = best_;
        if (!keep_right_signs(N, a_0)) return false;
        Integers set = active;  // in the order of L
        Vector multipliers(L.rows()), direction(L.rows()), change(r);
        multipliers.head(w.size()) = w;
        const Index limit = steps + 4 * r + 20;
        while (steps < limit) {
            Index enters = -1;
            double worst = 0.0;
            for (Index i = 0; i < r; ++i) {
                if (state[i] != 0) continue;
                const double outside = violation(i);
                const double measure = outside * outside / std::max(N(i, i), 1e-300);
                if (std::abs(outside) > tolerance && measure > worst) worst = measure, enters = i;
            }
            if (enters < 0) return true;
            const double sign = a(enters) > hi(enters) ? 1.0 : -1.0;
            double entered = 0.0;
            while (true) {
                if (++steps > limit) return false;
                // raising the multiplier of the row by sign * t moves those of the set by -t direction, and a by -t change
                const Index k = count(set);
                auto d = direction.head(k);
                for (Index j = 0; j < k; ++j) d(j) = sign * N(set[j], enters);
                const auto factor = L.topLeftCorner(k, k);
                solve_lower(factor, d);
                const double rest = N(enters, enters) - d.squaredNorm();
                const Vector half = d;
                solve_upper(factor, d);
                Index leaves = -1;
                double longest = infinity;
                for (Index j = 0; j < k; ++j) {
                    const double s = state[set[j]];
                    if (s * d(j) > 0.0) {
                        const double t = std::max(s * multipliers(j), 0.0) / (s * d(j));
                        if (t < longest) longest = t, leaves = j;
                    }
                }
                const bool independent = rest > 1e-12 * N(enters, enters) && k < room;
                const double full = independent ? std::abs(violation(enters)) / rest : infinity;
                if (!independent && leaves < 0) return false;  // no feasible point
                const double t = std::min(full, longest);
                multipliers.head(k) -= t * d;
                entered += t;
                if (independent) {
                    change = sign * N.col(enters);
                    for (Index j = 0; j < k; ++j) change -= d(j) * N.col(set[j]);
                    a -= t * change;
                }
                if (full <= longest) {
                    for (Index j = 0; j < k; ++j) L(k, j) = sign * half(j);
                    L(k, k) = std::sqrt(rest);
                    multipliers(k) = sign * entered;
                    set.push_back(enters);
                    state[enters] = static_cast<signed char>(sign);
                    break;
                }
                state[set[leaves]] = 0;
                remove(set, multipliers, leaves);
            }
        }
        return false;
    }

    // Row `leaves` of the set goes: its row of L is dropped, and Givens rotations make L lower triangular again.
    void remove(Integers& set, Vector& multipliers, Index leaves) {
        const Index k = count(set);
        for (Index i = leaves; i + 1 < k; ++i) {
            L.row(i).head(i + 2) = L.row(i + 1).head(i + 2);
            multipliers(i) = multipliers(i + 1);
            const double length = std::hypot(L(i, i), L(i, i + 1));
            const double cosine = L(i, i) / length, sine = L(i, i + 1) / length;
            L(i, i) = length;
            for (Index j = i + 1; j + 1 < k; ++j) {
                const double one = L(j + 1, i), other = L(j + 1, i + 1);
                L(j + 1, i) = cosine * one + sine * other;
                L(j + 1, i + 1) = cosine * other - sine * one;
            }
            L(i, i + 1) = 0.0;
        }
        set.erase(set.begin() + leaves);
    }
};

}  // namespace core
