// The power cone {(x, y, z) : x^a y^b >= |z|, x, y >= 0}, 0 < a < 1, b = 1 - a, at a point (dcl/cones/power.py, three.hpp).
//
// mu = 0: outside of K and of its polar, with p = -v and z >= 0 (else mirrored), the rays are those of one t = log s_x/s_y,
//
//     a = (e^bt, e^-at, 1),  b = (a e^-bt, b e^at, -1),     ta = e^(b-a)t |b| / |a|^2,   tb = ab e^(a-b)t |a| / |b|^2
//     s_x (s_x - x) = a l k,   s_y (s_y - y) = b l k,   l + k = z,   a log s_x + b log s_y = log l              (Hien 2015)
//
// one equation in w = log l/k.
//
// mu > 0: phi = -log(u^2 - z^2) - b log x - a log y,  u = x^a y^b,  r = |z|/u,  gap = 1 - r^2, with the rows of G
//
//     near (a/x, b/y, -sign(z)/u) (1 + r) / gap,     far (a/x, b/y, sign(z)/u) / (1 + r),
//     (1/x, -1/y, 0) sqrt(2ab / gap),     (sqrt(b)/x, 0, 0),     (0, sqrt(a)/y, 0)
#pragma once

#include "three.hpp"

namespace core {

struct Power : Three<Power, 5> {
    Power(Index row, double exponent) : Three(row), a_(exponent), b_(1.0 - exponent) {}

private:
    friend Three;
    // w is found in [-widest, widest], far beyond the range of e^w: its logarithms are what is used
    static constexpr double widest = 1e5;
    double a_, b_;

    // z, s, D and the distance from the nearest kink at mu = 0
    void project(const Vector3& v) {
        const Vector3 p = -v;
        const double primal = distance_inside(p, 1.0, 1.0), dual = distance_inside(v, a_, b_);
        if (dual >= 0.0) return in_polar(v, dual);  // 0 too, as in dcl/cones/three.py
        if (primal >= 0.0) return in_cone(p, primal);
        const double sign = p(2) < 0.0 ? -1.0 : 1.0, t = find(Vector3(p(0), p(1), std::abs(p(2))));
        // each ray divided by its largest exponential
        const double A = std::max(b_ * t, -a_ * t), B = std::max(a_ * t, -b_ * t), least = std::min(A, B);
        const Vector3 a(std::exp(b_ * t - A), std::exp(-a_ * t - A), sign * std::exp(-A));
        const Vector3 b(a_ * std::exp(-b_ * t - B), b_ * std::exp(a_ * t - B), -sign * std::exp(-B));
        on_rays(p, a, b, std::exp(least - A) * b.norm() / a.squaredNorm(),
                a_ * b_ * std::exp(least - B) * a.norm() / b.squaredNorm());
    }

    // Distance of p from the boundary of {(x/m)^a (y/n)^b >= |z|}, to first order; negative outside.
    double distance_inside(const Vector3& p, double m, double n) const {
        const double x = p(0), y = p(1), z = std::abs(p(2));
        if (!(x > 0.0 && y > 0.0)) return x >= 0.0 && y >= 0.0 && z == 0.0 ? 0.0 : -infinity;
        const double u = std::exp(a_ * std::log(x / m) + b_ * std::log(y / n));
        const double slope_x = a_ * u / x, slope_y = b_ * u / y;
        const double gap = (u - z) / std::sqrt(slope_x * slope_x + slope_y * slope_y + 1.0);
        return gap >= 0.0 ? std::min({gap, x, y}) : gap;
    }

    // The positive root s of s (s - x) = m = share l k, where m may be too small for a number.
    struct Root {
        double rest, change, n;  // log s = rest + n log lk, n = 0, 1/2, 1 for x > 0, x = 0, x < 0;  d log s / d log m
    };
    static Root positive_root(double x, double share, double log_lk) {
        if (x == 0.0) return {0.5 * std::log(share), 0.5, 0.5};
        const double size = std::hypot(x, 2.0 * std::exp(0.5 * (std::log(share) + log_lk)));
        const double log_big = std::log(0.5 * (std::abs(x) + size)), change = 0.5 * (size + std::abs(x)) / size;
        return x > 0.0 ? Root{log_big, 1.0 - change, 0.0} : Root{std::log(share) - log_big, change, 1.0};
    }

    static double log_sigmoid(double w) { return std::min(w, 0.0) - std::log1p(std::exp(-std::abs(w))); }

    // The t of the rays of a point with z >= 0.
    double find(const Vector3& point) const {
        constexpr double tiny = std::numeric_limits<double>::min();
        const Vector3 p = point / std::max(magnitude(point), tiny);
        const double log_z = std::log(std::max(p(2), tiny));
        const bool both_negative = p(0) < 0.0 && p(1) < 0.0;
        double log_lk = 0.0;
        Root x{}, y{};
        const auto f = [&](double w) {
            const double log_l = log_sigmoid(w), log_k = log_sigmoid(-w);
            log_lk = 2.0 * log_z + log_l + log_k;
            x = positive_root(p(0), a_, log_lk);
            y = positive_root(p(1), b_, log_lk);
            // log l - a log s_x - b log s_y; where both are m / |.| the large log l cancels
            const double log = both_negative ? -log_z - log_k : log_z + log_l - (a_ * x.n + b_ * y.n) * log_lk;
            const double value = log - a_ * x.rest - b_ * y.rest;
            const double slope = std::exp(log_k) + (a_ * x.change + b_ * y.change) * std::tanh(0.5 * w);
            return Trial{value, -value / slope};
        };
        f(root(f, -widest, widest, 0.0));
        return x.rest - y.rest + (x.n - y.n) * log_lk;
    }

    // x^a y^b at s
    double mean() const { return std::exp(a_ * std::log(s_(0)) + b_ * std::log(s_(1))); }
    // 1 - r^2, at least what rounding leaves of it
    static double gap_of(double r) { return std::max((1.0 - r) * (1.0 + r), std::numeric_limits<double>::epsilon()); }

    // G at the prox s of v, where mu / gap = mu + |s_z z_z| / 2
    Vector3 forms(const Vector3& v, double mu) {
        const double x = s_(0), y = s_(1), u = mean(), r = std::abs(s_(2)) / u, sign = s_(2) < 0.0 ? -1.0 : 1.0;
        const double large = mu + 0.5 * std::abs(s_(2) * (s_(2) + v(2))), here = gap_of(r);
        const double gap = std::abs(s_(2) * v(2)) * here < large ? mu / large : here;
        const double size = std::sqrt(mu), near = size * (1.0 + r) / gap, far = size / (1.0 + r);
        const double across = size * std::sqrt(2.0 * a_ * b_ / gap);
        G_.row(0) << near * (a_ / x), near * (b_ / y), -sign * (near / u);
        G_.row(1) << far * (a_ / x), far * (b_ / y), sign * (far / u);
        G_.row(2) << across / x, -across / y, 0.0;
        G_.row(3) << size * std::sqrt(b_) / x, 0.0, 0.0;
        G_.row(4) << 0.0, size * std::sqrt(a_) / y, 0.0;
        return -size * (G_.row(0) + G_.row(1) + std::sqrt(b_) * G_.row(3) + std::sqrt(a_) * G_.row(4)).transpose();
    }

    // Newton's step for s in the prox, -(I + mu phi'')^-1 (s + v + mu phi').  With h = (a/x, b/y) and the z of near and far,
    // k and f, z is eliminated first; what is left of h h' and the last pivot are sums of squares, nothing cancels:
    //
    //     (S - D^2 / (1 + S)) h h',   S = mu (k^2 + f^2),  D = mu (f^2 - k^2):     S^2 - D^2 = (2 mu k f)^2
    double newton(const Vector3& v, double mu) {
        const double by_x = 1.0 / s_(0), by_y = 1.0 / s_(1), u = mean(), r = std::abs(s_(2)) / u, gap = gap_of(r);
        const double sign = s_(2) < 0.0 ? -1.0 : 1.0, h_1 = a_ * by_x, h_2 = b_ * by_y;
        const double k = (1.0 + r) / gap, f = 1.0 / (1.0 + r), by_u = 1.0 / u;
        const double g = mu * (k + f);
        const double r_0 = s_(0) + v(0) - g * h_1 - mu * b_ * by_x, r_1 = s_(1) + v(1) - g * h_2 - mu * a_ * by_y;
        const double r_2 = s_(2) + v(2) + sign * mu * (k - f) * by_u;
        // in units of u: h u is free of units
        const double H_1 = h_1 * u, H_2 = h_2 * u, unit = mu * by_u * by_u, S = unit * (k * k + f * f), D = unit * (f * f - k * k);
        const double cross = 2.0 * unit * k * f, d_z = 1.0 + S, l_1 = sign * (D / d_z) * H_1, l_2 = sign * (D / d_z) * H_2;
        const double left = S / d_z + cross * (cross / d_z), c = 2.0 * a_ * b_ * mu / gap;
        const double p_1 = left * H_1 * H_1, p_2 = left * H_2 * H_2, q_1 = c * by_x * by_x, q_2 = c * by_y * by_y;
        const double e_1 = 1.0 + mu * b_ * by_x * by_x, e_2 = 1.0 + mu * a_ * by_y * by_y;
        const double d_1 = e_1 + p_1 + q_1, m = (left * H_1 * H_2 - c * by_x * by_y) / d_1;
        const double d_2 = e_2 + (e_1 / d_1) * (p_2 + q_2) + (p_1 / d_1) * q_2 / (a_ * a_);
        const double w_1 = r_0 - l_1 * r_2, w_2 = r_1 - l_2 * r_2 - m * w_1;
        const double y = -w_2 / d_2, x = -w_1 / d_1 - m * y, z = -r_2 / d_z - l_1 * x - l_2 * y;
        return step(Vector3(x, y, z), Vector3(r_0, r_1, r_2), mu);
    }

    Vector3 center() const { return Vector3(std::sqrt(1.0 + a_), std::sqrt(1.0 + b_), 0.0); }
};

}  // namespace core
