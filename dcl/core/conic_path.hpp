// The smoothing path: damped Newton steps on F at a mu that falls, from any point (Chen and Tseng 2003 for second-order cones).
//
//     f_1 + P dx + A'D dv = 0,    f_2 + A dx + (D - I) dv = 0         on rows of cones with W = D (I - D)^-1:
//     M dx + A_e'dz_e = -f_1 - A_c'W f_2c,   A_e dx = -f_2e,   M = P + A_c'W A_c,   dv_c = (I + W)(A_c dx + f_2c)
//
// F is defined for every v, so no point needs to be in the interior of anything, and a start may be the last solution.
#pragma once

#include "condensed.hpp"
#include "cones/assembly.hpp"
#include "conic_point.hpp"

namespace core {

struct ConicPath {
    double mu = 1.0;
    int steps = 0;
    bool is_patient = false;  // mu falls slowly

    // From the point at hand down to mu = `last`; false where steps become short.
    bool descend(const Program& program, Cones& cones, const Grams& grams, ConicPoint& point, double last) {
        int patience = most_short;
        const int end = steps + most_steps;
        point.evaluate(program, cones, mu);
        const double scale = 1.0 + magnitude(program.q) + magnitude(program.side);
        while (true) {
            if (steps >= end || !std::isfinite(point.size)) return false;
            if (mu <= last && point.size <= near * scale) return true;
            double length = 1.0;
            if (point.size > exact * scale) {
                ++steps;
                if (!direction(program, cones, grams, point)) return false;
                length = damped(program, cones, point);
            }
            if (length == 0.0 || (length < 0.1 && --patience == 0)) return false;
            if (length < 0.5 || mu <= last) continue;
            mu = std::max(last, mu * (length == 1.0 && !is_patient ? fast : slow));
            point.evaluate(program, cones, mu);
        }
    }

private:
    static constexpr int most_steps = 60, most_short = 12, halvings = 12;
    static constexpr double near = 1e-6, exact = 1e-13, fast = 0.05, slow = 0.3;
    Condensed system_;
    Assembly assembly_;
    Vector dx_, dy_, dv_, x_, v_;

    bool direction(const Program& program, Cones& cones, const Grams& grams, ConicPoint& point) {
        const Index zeros = cones.zeros;
        system_.M = *program.P;
        assembly_.add_weighted(cones, program.C(), grams, system_.M);
        if (!system_.factor(program)) return false;
        dv_ = point.f_2;
        cones.weigh(dv_);
        dx_ = -point.f_1;
        if (dv_.size() > 0) dx_.noalias() -= program.C() * dv_;
        dy_ = -point.f_2.head(zeros);
        system_.solve(program, dx_, dy_);
        dv_ = point.f_2;
        if (dv_.size() > 0) dv_.noalias() += program.C().transpose() * dx_;
        v_ = dv_;
        cones.weigh(v_);
        dv_ += v_;
        dv_.head(zeros) = dy_;
        return all_finite(dx_) && all_finite(dv_);
    }

    // The longest of the steps 1, 1/2, 1/4, ... that lowers |F|; 0 where none does.
    double damped(const Program& program, Cones& cones, ConicPoint& point) {
        x_ = point.x;
        v_ = point.v;
        const double before = point.size;
        double length = 1.0;
        for (int k = 0; k < halvings; ++k, length *= 0.5) {
            point.x = x_ + length * dx_;
            point.v = v_ + length * dv_;
            point.evaluate(program, cones, mu);
            if (point.size <= (1.0 - 1e-4 * length) * before) return length;
        }
        point.x = x_;
        point.v = v_;
        point.evaluate(program, cones, mu);
        return 0.0;
    }
};

}  // namespace core
