// When an answer of a cone program is certified: the careful lane would call it OPTIMAL, its derivative EXACT, and agree.
//
//     residuals of residuals.hpp, strict and net                     <= accurate, but with a cone that is no orthant in place of
//                                                                    its rows: a small entry of a projection has the rounding
//                                                                    of the large ones;  row by row, <= accurate_rows
//     |x|, |z|                                                       <= far * (1 + the right-hand sides of rows with z)
//     eigenvalues of v in every cone, |v_i| on the orthant           >= clear * the width of a tie (dcl/point/ties.py), at mu = 0
//     both Cholesky factors exist, and the condition of S            <= conditioned
//     the last Newton step                                           <= settled, relative to the point, and a tenth of the
//                                                                    smallest eigenvalue
//     condition * residual                                           <= error_limit
//
// The limits are those of certify.hpp, but for the condition: a projection has no more digits than v.
//
// A minimum that is not attained shows in the condition: along the way to infinity F becomes flat.
#pragma once

#include "certify.hpp"
#include "conic_newton.hpp"

namespace core {

inline constexpr double accurate_rows = 1e-9, conditioned_cones = 5e6;

struct ConicCertifier {
    Condition condition;

    Certificate operator()(const Program& program, const Cones& cones, const ConicNewton& newton, const ConicPoint& point,
                           double mu, Residuals& r) {
        Certificate out;
        r.products(program, point.x, point.z);
        r.measure(program, point.x, point.z, point.s, mu * static_cast<double>(cones.degree));
        out.status = Status::residual;
        if (!(newton.moved <= 0.1 * settled) || !(r.worst() <= accurate_rows)) return out;
        if (!(std::max({r.dual, r.gap, r.net(), by_cone(program, cones, point, r)}) <= accurate)) return out;
        out.status = Status::far;
        if (is_far(program, point)) return out;
        out.status = Status::tie;
        if (!is_clear(program, cones, point, newton, mu, out.margin)) return out;
        out.condition = condition.estimate(newton.factor);
        const bool is_sharp = out.condition * std::max(r.primal, r.dual) <= error_limit;
        out.status = out.condition <= conditioned_cones && is_sharp ? Status::certified : Status::condition;
        return out;
    }

private:
    // The primal residual, the terms of a cone's rows taken together.
    static double by_cone(const Program& program, const Cones& cones, const ConicPoint& point, const Residuals& r) {
        double worst = 0.0;
        const auto look = [&](Index first, Index size) {
            double error = 0.0, terms = 0.0;
            for (Index i = first; i < first + size; ++i) {
                error = std::max(error, std::abs(r.Ax(i) + point.s(i) - program.side(i)));
                terms = std::max(terms, r.Ax_sizes(i) + std::abs(point.s(i)) + std::abs(program.side(i)));
            }
            worst = std::max(worst, error / (floor_of_terms + terms));
        };
        for (Index i = 0; i < cones.orthant; ++i) look(i, 1);
        cones.each([&](const auto& cone) { look(cone.first, cone.size); });
        return worst;
    }

    static bool is_far(const Program& program, const ConicPoint& point) {
        double data = 1.0;
        for (Index i = 0; i < point.z.size(); ++i) {
            if (point.z(i) != 0.0) data = std::max(data, std::abs(program.side(i)));
        }
        return !(std::max(magnitude(point.x), magnitude(point.z)) <= far_beyond * data);
    }

    static bool is_clear(const Program& program, const Cones& cones, const ConicPoint& point, const ConicNewton& newton,
                         double mu, double& margin) {
        const double largest = magnitude(point.z);
        bool all = true;
        const auto look = [&](double distance, double side) {
            margin = std::min(margin, distance);
            const double width = std::max(tie_tolerance, tie_rounding * std::max(largest, side));
            all = all && distance >= clear * width && newton.change <= 0.1 * distance;
        };
        for (Index i = cones.zeros; i < cones.orthant; ++i) {
            look(std::abs(point.v(i)), point.v(i) > 0.0 ? 0.0 : std::abs(program.side(i)));
        }
        cones.each([&](const auto& cone) { look(cone.distance(), magnitude(program.side.segment(cone.first, cone.size))); });
        return all || mu > 0.0;
    }
};

}  // namespace core
