// The exponential cone closure {(x, y, z) : y exp(x/y) <= z, y > 0}, at a point (dcl/cones/exponential.py, three.hpp).
//
// mu = 0: outside of K, of its polar and of a flat face the rays are those of one r,
//
//     a = (r, 1, e^r),  b = (-e^r, (r - 1) e^r, 1),   ta = |b| / |a|^2,  tb = e^r |a| / |b|^2
//     r:  L e^r - N = z,   L = ((r - 1) x + y) / (r^2 - r + 1),   N = e^-r (x - r y) / (r^2 - r + 1)      (Friberg 2023)
//
// mu > 0: phi = -log psi - log y - log z,  psi = y log(z/y) - x, with the rows of G
//
//     (-1, log(z/y) - 1, y/z) / psi,    (0, 1, -y/z) / sqrt(psi y),    (0, 1/y, 0),    (0, 0, 1/z)
#pragma once

#include "three.hpp"

namespace core {

struct Exponential : Three<Exponential, 4> {
    using Three::Three;

private:
    friend Three;
    static constexpr double far = 800.0;

    // z, s, D and the distance from the nearest kink at mu = 0
    void project(const Vector3& v) {
        const Vector3 p = -v;
        const double primal = primal_gap(p), dual = dual_gap(v);
        if (primal >= 0.0) return in_cone(p, std::min(primal, std::abs(v(1))));
        if (dual >= 0.0) return in_polar(v, std::min(dual, std::abs(v(0))));
        if (p(0) <= 0.0 && p(1) <= 0.0) {
            Q_.setIdentity();
            s_ = Vector3(p(0), 0.0, std::max(p(2), 0.0));
            z_ = Vector3(0.0, v(1), std::max(v(2), 0.0));
            w_ = Vector3(0.0, infinity, p(2) < 0.0 ? infinity : 0.0);
            distance_ = p.cwiseAbs().minCoeff();
            return;
        }
        const double r = find(p), up = r > 0.0 ? std::exp(-r) : 1.0, down = r > 0.0 ? 1.0 : std::exp(r);
        const Vector3 a(r * up, up, down), b(-down, (r - 1.0) * down, up);
        const double length_a = a.norm(), length_b = b.norm();
        on_rays(p, a, b, up * length_b / (length_a * length_a), down * length_a / (length_b * length_b));
        distance_ = std::min(distance_, std::hypot(std::max(p(0), 0.0), std::max(p(1), 0.0)));
    }

    // Distance from the curved boundary, to first order; negative outside.
    static double primal_gap(const Vector3& p) {
        if (!(p(1) > 0.0 && p(2) > 0.0)) return -infinity;
        const double log = std::log(p(2)) - std::log(p(1)), t = p(1) / p(2);
        return (p(1) * log - p(0)) / std::sqrt(1.0 + (log - 1.0) * (log - 1.0) + t * t);
    }
    static double dual_gap(const Vector3& v) {
        if (!(v(0) < 0.0 && v(2) > 0.0)) return v(0) == 0.0 && v(1) >= 0.0 && v(2) >= 0.0 ? 0.0 : -infinity;
        const double m = -v(0), log = std::log(v(2)) - std::log(m), t = m / v(2);
        return (v(1) + m + m * log) / std::sqrt(log * log + 1.0 + t * t);
    }

    // The root r.
    static double find(const Vector3& point) {
        const Vector3 p = point / std::max(magnitude(point), std::numeric_limits<double>::min());
        const double x = p(0), y = p(1);
        const double lowest = x > 0.0 ? 1.0 - y / x : -infinity, highest = y > 0.0 ? x / y : infinity;
        const double low = std::max(lowest, std::min(highest, 0.0) - far);
        const double high = std::min(highest, std::max(lowest, 0.0) + far);
        const auto h = [&](double r) {  // times e^-|r|; Newton's step comes along
            const double q = r * r - r + 1.0, dq = 2.0 * r - 1.0;
            const double L = ((r - 1.0) * x + y) / q, N = (x - r * y) / q;
            const double dL = (x - L * dq) / q, dN = (-y - N * dq) / q;
            const double up = std::exp(r - std::abs(r)), down = std::exp(-r - std::abs(r));
            const double value = L * up - N * down - p(2) * std::exp(-std::abs(r));
            return Trial{value, -value / ((L + dL) * up + (N - dN) * down)};
        };
        const double inward = std::min(0.5 * (high - low), 1.0);
        return root(h, low, high, std::min(std::max(low + inward, 0.0), high - inward));
    }

    static double psi(const Vector3& s) {
        const double curve = s(1) * (std::log(s(2)) - std::log(s(1)));
        return std::max(curve - s(0), std::numeric_limits<double>::epsilon() * (std::abs(curve) + std::abs(s(0))));
    }

    // G at the prox s of v, where psi * (-s_x - v_x) = mu
    Vector3 forms(const Vector3& v, double mu) {
        const double multiplier = -(s_(0) + v(0)), here = psi(s_), at_psi = multiplier > here ? mu / multiplier : here;
        const double y = s_(1), z = s_(2), size = std::sqrt(mu), root_psi = std::sqrt(at_psi * y);
        G_.row(0) << -size / at_psi, size * (std::log(z) - std::log(y) - 1.0) / at_psi, size * (y / z) / at_psi;
        G_.row(1) << 0.0, size / root_psi, -size * (y / z) / root_psi;
        G_.row(2) << 0.0, size / y, 0.0;
        G_.row(3) << 0.0, 0.0, size / z;
        return -size * (G_.row(0) + G_.row(2) + G_.row(3)).transpose();
    }

    // Newton's step for s in the prox, -(I + mu phi'')^-1 (s + v + mu phi').
    // By numbers, since this is where the time of a program with many of these cones goes.
    double newton(const Vector3& v, double mu) {
        const double x = s_(0), y = s_(1), z = s_(2), log = std::log(z) - std::log(y), curve = y * log;
        const double gap = std::max(curve - x, std::numeric_limits<double>::epsilon() * (std::abs(curve) + std::abs(x)));
        const double p = 1.0 / gap, l = log - 1.0, t = y / z, by_y = 1.0 / y, by_z = 1.0 / z;
        const double r_0 = x + v(0) + mu * p, r_1 = y + v(1) - mu * (l * p + by_y), r_2 = z + v(2) - mu * (t * p + by_z);
        const double a = mu * p * p, c = mu * p * by_y;
        // I + mu phi'' = L D L'
        const double d_0 = 1.0 + a, l_1 = -a * l / d_0, l_2 = -a * t / d_0, b = a / d_0;  // a - a^2 / (1 + a) = b
        const double d_1 = 1.0 + b * l * l + c + mu * by_y * by_y, m = (b * l * t - c * t) / d_1;
        const double d_2 = 1.0 + (b + c) * t * t + mu * by_z * by_z - m * m * d_1;
        const double w_1 = r_1 - l_1 * r_0, w_2 = r_2 - l_2 * r_0 - m * w_1;
        const double e_2 = -w_2 / d_2, e_1 = -w_1 / d_1 - m * e_2, e_0 = -r_0 / d_0 - l_1 * e_1 - l_2 * e_2;
        return step(Vector3(e_0, e_1, e_2), Vector3(r_0, r_1, r_2), mu);
    }

    static Vector3 center() { return Vector3(-1.0513828793570063, 0.5564085700309546, 1.2589666996209303); }  // -phi'(e) = e
};

}  // namespace core
