// When an answer is certified: the careful lane of dcl would call it OPTIMAL and its derivative EXACT, and agree with it.
//
//     residuals of residuals.hpp, strict and net                     <= accurate
//     |x|, |z|                                                       <= far * (1 + the active right-hand sides)
//     |v_i| = max(z_i, s_i) of every inequality                      >= clear * the width of a tie in dcl/point/ties.py
//     both Cholesky factors exist, and the condition of S            <= conditioned
//     the last Newton step                                           <= settled, relative to the point; where |v| is small
//                                                                    it changes no v_i by a tenth of it
//     condition * residual                                           <= error_limit
//
// A rank-deficient program whose objective falls without end has points of any size with small relative residuals: the
// bounds on |x| and on the net residuals are for them.
#pragma once

#include "condition.hpp"
#include "cones/spectral.hpp"

namespace core {

enum class Status : std::int8_t {
    certified = 0,
    not_finite = 1,   // NaN or a wrong infinity in the data
    not_psd = 2,      // P may have a negative eigenvalue
    not_solved = 3,   // no active set was found: infeasible, unbounded, or hard
    residual = 4,     // the point found is not accurate enough
    tie = 5,          // a row is nearly at a tie
    dependent = 6,    // a Cholesky factor does not exist: x or the multipliers are not unique
    condition = 7,    // S is ill-conditioned
    far = 8,          // the point is far beyond the data
};

inline constexpr double accurate = 1e-11, target = 1e-13, far_beyond = 1e6, clear = 100.0, conditioned = 1e9, settled = 1e-9;
// condition * residual, a bound of the error of x (dcl/point/degeneracy.py: 1e-6)
inline constexpr double error_limit = 1e-7;
// Newton steps have compensated residuals where condition * imbalance is above this (dcl/solve/polish.py).
inline constexpr double delicate = 1e6;
// On the path a bound of the condition up to here serves as it is: the adjoint takes it for an estimate, and would refine more.
inline constexpr double modest = 1e5;
inline constexpr double rounding = tie_rounding, smallest_terms = 1e-5;

struct Certificate {
    Status status = Status::not_solved;
    double condition = infinity, margin = infinity;
};

// Is |v_i| of every inequality at least `clear` times the width of a tie?  margin: the smallest |v_i|.
inline bool clear_of_ties(const Program& program, const Point& point, const Residuals& r, double& margin) {
    margin = infinity;
    const double largest_z = program.rows() > program.p ? magnitude(point.z.tail(program.rows() - program.p)) : 0.0;
    const double size_x = std::min(magnitude(point.x), 1.0);
    bool all = true;
    double noise = -1.0;
    for (Index i = program.p; i < program.rows(); ++i) {
        if (!program.binds(i)) continue;
        const bool active = point.s(i) == 0.0;
        const double v = active ? point.z(i) : point.s(i);
        margin = std::min(margin, v);
        if (!(v > 0.0)) {
            all = false;
            continue;
        }
        const double width = std::max(tie_tolerance, rounding * (active ? largest_z : std::abs(program.side(i))));
        if (v >= clear * width) continue;
        // the terms of the row
        const Vector& Px = r.Px;
        if (noise < 0.0) {
            noise = 1e-2;
            for (Index j = 0; j < program.n; ++j) {
                noise = std::max(noise, std::abs(Px(j)) + std::abs(program.q(j)) + r.ATz_sizes(j));
            }
            noise *= 0.1 * rounding;
        }
        double narrow = 0.0;
        if (active) {
            double dual = infinity;
            if (i < program.p + program.m) {
                for (Index j = 0; j < program.n; ++j) {
                    const double entry = std::abs(program.C()(j, i));
                    const double column = std::abs(Px(j)) + std::abs(program.q(j)) + r.ATz_sizes(j);
                    if (entry > 0.0) dual = std::min(dual, column / entry);
                }
            } else {
                const Index j = program.variable(i);
                dual = std::abs(Px(j)) + std::abs(program.q(j)) + r.ATz_sizes(j);
            }
            narrow = std::max(tie_tolerance * std::clamp(dual, smallest_terms, 1.0), 0.1 * rounding * largest_z);
        } else {
            const double primal = r.Ax_sizes(i) + std::abs(program.side(i));
            narrow = std::max({tie_tolerance * std::min(std::max(primal, size_x), 1.0), rounding * primal, noise});
        }
        if (!(v >= clear * narrow)) all = false;
    }
    return all;
}

// Largest over smallest of |x| and the multipliers that are not zero.
inline double imbalance(const Point& point) {
    double largest = magnitude(point.x), smallest = largest;
    for (Index i = 0; i < point.z.size(); ++i) {
        const double size = std::abs(point.z(i));
        if (size > tie_tolerance) largest = std::max(largest, size), smallest = std::min(smallest, size);
    }
    return largest / std::clamp(smallest, tie_tolerance, 1.0);
}

// Did the last Newton step leave every v_i as it is, up to a tenth?  Asked where a v_i is smaller than `close` of the point.
inline bool keeps_signs(const Program& program, const Point& point, const Step& step, double margin) {
    constexpr double close = 1e-6, share = 0.1;
    if (margin >= close * (1.0 + std::max(magnitude(point.x), magnitude(point.y)))) return true;
    for (Index k = 0; k < count(point.strong); ++k) {
        if (point.strong[k] >= program.p && std::abs(step.y(k)) > share * std::abs(point.y(k))) return false;
    }
    const Index general = program.p + program.m;
    for (Index i = program.p; i < program.rows(); ++i) {
        if (!program.binds(i) || point.s(i) == 0.0) continue;
        const double moved = i < general ? program.C().col(i).dot(step.a) : step.a(program.variable(i));
        if (std::abs(moved) > share * point.s(i)) return false;
    }
    return true;
}

inline bool is_far(const Program& program, const Point& point) {
    double data = 1.0;
    for (const Index row : point.strong) {
        // on the path rows may be strong that are not active
        if (point.s(row) <= std::max(point.z(row), 0.0)) data = std::max(data, std::abs(program.side(row)));
    }
    return !(std::max(magnitude(point.x), magnitude(point.z)) <= far_beyond * data);
}

// Newton's method on the active set of the point, with the factor made there, and the verdict.  At mu = 0.
struct Certifier {
    Condition condition;
    Step step;

    Certificate operator()(const Program& program, const Factor& factor, Point& point, Residuals& r) {
        Certificate out;
        double moved = polish(program, factor, point, r);
        if (!(r.worst() <= accurate)) {
            out.status = Status::residual;
            return out;
        }
        if (is_far(program, point)) {
            out.status = Status::far;
            return out;
        }
        if (!clear_of_ties(program, point, r, out.margin)) {
            out.status = Status::tie;
            return out;
        }
        const double size = imbalance(point);
        // the estimate is as dear as a step: only where the bound does not settle it
        out.condition = Condition::bound(factor);
        if (!(out.condition * size <= delicate && out.condition * std::max(r.primal, r.dual) <= error_limit)) {
            out.condition = condition.estimate(factor);
        }
        if (!(out.condition <= conditioned)) {
            out.status = Status::condition;
            return out;
        }
        if (out.condition * size > delicate) {
            moved = sharpen(program, factor, point, r);
            if (!(r.worst() <= accurate) || !clear_of_ties(program, point, r, out.margin)) {
                out.status = Status::residual;
                return out;
            }
        }
        const bool is_sharp = moved <= settled && out.condition * std::max(r.primal, r.dual) <= error_limit &&
                              keeps_signs(program, point, step, out.margin);
        out.status = is_sharp ? Status::certified : Status::residual;
        return out;
    }

    void measure(const Program& program, Point& point, Residuals& r) const {
        point.spread();
        r.products(program, point.x, point.z);
        point.take_slacks(program, r.Ax);
        r.measure(program, point.x, point.z, point.s);
    }

private:
    double polish(const Program& program, const Factor& factor, Point& point, Residuals& r) {
        double moved = newton_step(program, factor, point, step, false);
        measure(program, point, r);
        for (int k = 0; k < 3 && (r.worst() > target || moved > 0.1 * settled); ++k) {
            const double before = r.worst();
            moved = newton_step(program, factor, point, step, false);
            measure(program, point, r);
            if (!(r.worst() < 0.5 * before) && r.worst() > target) break;
        }
        return moved;
    }

    double sharpen(const Program& program, const Factor& factor, Point& point, Residuals& r) {
        double moved = infinity;
        for (int k = 0; k < 4; ++k) {
            const double now = newton_step(program, factor, point, step, true);
            const bool shrinks = now < 0.5 * moved;
            moved = std::min(moved, now);
            if (!shrinks || now < 1e-15) break;
        }
        measure(program, point, r);
        return moved;
    }
};

}  // namespace core
