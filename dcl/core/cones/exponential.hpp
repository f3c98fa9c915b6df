// The exponential cone closure {(x, y, z) : y exp(x/y) <= z, y > 0}, at a point (dcl/cones/exponential.py, dcl/cones/three.py).
//
// mu = 0: -v is in K (z = 0), v in K* (s = 0), on a flat face, or -v = S a/|a| - Z b/|b| with the rays of one r,
//
//     a = (r, 1, e^r),  b = (-e^r, (r - 1) e^r, 1),   ta = |b| / |a|^2,  tb = e^r |a| / |b|^2
//     D = Q diag(0, 1, g) Q',   Q = (a/|a|, b/|b|, c),   g = Z tb / (S ta + Z tb)
//     r:  L e^r - N = z,   L = ((r - 1) x + y) / (r^2 - r + 1),   N = e^-r (x - r y) / (r^2 - r + 1)      (Friberg 2023)
//
// mu > 0: s = argmin mu phi(s) + |s + v|^2 / 2,  phi = -log psi - log y - log z,  psi = y log(z/y) - x, by damped Newton steps
// (Nesterov 2018, section 5.2);  W = D (I - D)^-1 = mu phi''(s) = (sqrt(mu) G)'(sqrt(mu) G), with the rows of G
//
//     (-1, log(z/y) - 1, y/z) / psi,    (0, 1, -y/z) / sqrt(psi y),    (0, 1/y, 0),    (0, 0, 1/z)
//
// whose singular values keep what G'G has lost.
#pragma once

#include <Eigen/Dense>

#include "spectral.hpp"

namespace core {

using Vector3 = Eigen::Vector3d;
using Matrix3 = Eigen::Matrix3d;

struct Exponential {
    static constexpr Index size = 3;
    Index first = 0;

    explicit Exponential(Index row) : first(row) {}

    void evaluate(ConstVectorRef at, double mu, VectorRef z) {
        const Vector3 v = three(at);
        has_frame_ = mu == 0.0;
        // the last s is near the new one, most of the time
        if (!(mu > 0.0 && is_inside_ && prox(v, mu, nearest_decrement))) {
            project(v);
            is_inside_ = mu > 0.0;
            if (is_inside_) {
                const double ze = z_.dot(center());
                s_ += center() * (6.0 * mu / (ze + std::sqrt(ze * ze + 36.0 * mu)));
                prox(v, mu, infinity);
            }
        }
        put(z_, z);
    }

    // At mu > 0 the eigenvalues and Q are found when they are first asked for.
    double d(Index k) const {
        const double w_k = w(k);
        return std::isinf(w_k) ? 1.0 : w_k / (1.0 + w_k);
    }
    double w(Index k) const {
        frame();
        return w_(k);
    }
    double distance() const { return distance_; }

    template <class Out>
    void to_eigen(Out&& u) const {
        frame();
        put(Q_.transpose() * three(u), u);
    }
    template <class Out>
    void from_eigen(Out&& u) const {
        frame();
        put(Q_ * three(u), u);
    }
    template <class Out>
    void weigh(Out&& u) const {
        put(W() * three(u), u);
    }
    Matrix3 W() const { return G_.transpose() * G_; }

    void rotate(Eigen::Ref<const Matrix> A, Eigen::Ref<Matrix> B) const {
        frame();
        B.noalias() = A * Q_;
    }

private:
    static constexpr double far = 800.0;
    static constexpr int most_steps = 200;
    // where the last s serves as a start; and of the last step, the next one would be its square
    static constexpr double nearest_decrement = 4.0, last_decrement = 3e-8;
    double distance_ = 0.0;
    bool is_inside_ = false;  // is s in the interior of K, of an evaluation at mu > 0?
    Vector3 s_, z_;
    Eigen::Matrix<double, 4, 3> G_;  // times sqrt(mu)
    mutable bool has_frame_ = false;
    mutable Matrix3 Q_;
    mutable Vector3 w_;

    template <class In>
    static Vector3 three(const In& u) {
        return Vector3(u(0), u(1), u(2));
    }
    template <class Out>
    static void put(const Vector3& t, Out&& u) {
        for (Index i = 0; i < 3; ++i) u(i) = t(i);
    }

    // z, s, D and the distance from the nearest kink at mu = 0
    void project(const Vector3& v) {
        const Vector3 p = -v;
        const double primal = primal_gap(p), dual = dual_gap(v);
        Q_.setIdentity();
        if (primal >= 0.0) {
            s_ = p;
            z_.setZero();
            w_.setZero();
            distance_ = std::min(primal, std::abs(v(1)));
            return;
        }
        if (dual >= 0.0) {
            s_.setZero();
            z_ = v;
            w_.setConstant(infinity);
            distance_ = std::min(dual, std::abs(v(0)));
            return;
        }
        if (p(0) <= 0.0 && p(1) <= 0.0) {
            s_ = Vector3(p(0), 0.0, std::max(p(2), 0.0));
            z_ = Vector3(0.0, v(1), std::max(v(2), 0.0));
            w_ = Vector3(0.0, infinity, p(2) < 0.0 ? infinity : 0.0);
            distance_ = p.cwiseAbs().minCoeff();
            return;
        }
        const double r = find(p), up = r > 0.0 ? std::exp(-r) : 1.0, down = r > 0.0 ? 1.0 : std::exp(r);
        const Vector3 a(r * up, up, down), b(-down, (r - 1.0) * down, up);
        const double length_a = a.norm(), length_b = b.norm();
        Q_.col(0) = a / length_a;
        Q_.col(1) = b / length_b;
        Q_.col(2) = Vector3(Q_.col(0)).cross(Vector3(Q_.col(1)));
        const double S = std::max(p.dot(Q_.col(0)), 0.0), Z = std::max(-p.dot(Q_.col(1)), 0.0);
        const double along_a = S * up * length_b / (length_a * length_a), along_b = Z * down * length_a / (length_b * length_b);
        s_ = S * Q_.col(0);
        z_ = Z * Q_.col(1);
        w_ = Vector3(0.0, infinity, along_b / along_a);
        distance_ = std::min({S, Z, std::hypot(std::max(p(0), 0.0), std::max(p(1), 0.0))});
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

    // The root r: Newton from a point inside of its interval, halving where that is slow.
    static double find(const Vector3& point) {
        const Vector3 p = point / std::max(magnitude(point), std::numeric_limits<double>::min());
        const double x = p(0), y = p(1);
        const double lowest = x > 0.0 ? 1.0 - y / x : -infinity, highest = y > 0.0 ? x / y : infinity;
        double low = std::max(lowest, std::min(highest, 0.0) - far), high = std::min(highest, std::max(lowest, 0.0) + far);
        double step = 0.0;
        const auto h = [&](double r) {  // times e^-|r|; Newton's step comes along
            const double q = r * r - r + 1.0, dq = 2.0 * r - 1.0;
            const double L = ((r - 1.0) * x + y) / q, N = (x - r * y) / q;
            const double dL = (x - L * dq) / q, dN = (-y - N * dq) / q;
            const double up = std::exp(r - std::abs(r)), down = std::exp(-r - std::abs(r));
            const double value = L * up - N * down - p(2) * std::exp(-std::abs(r));
            step = -value / ((L + dL) * up + (N - dN) * down);
            return value;
        };
        if (h(low) >= 0.0) return low;
        if (h(high) <= 0.0) return high;
        const double inward = std::min(0.5 * (high - low), 1.0);
        double r = std::min(std::max(low + inward, 0.0), high - inward), last = high - low, value = h(r);
        for (int k = 0; k < most_steps; ++k) {
            if (value <= 0.0) low = r;
            if (value >= 0.0) high = r;
            const bool good = r + step >= low && r + step <= high && std::abs(step) <= 0.5 * last;
            const double next = good ? r + step : 0.5 * (low + high), ample = 1.0 + std::abs(next);
            last = std::abs(next - r);
            r = next;
            if (last <= (good ? 0x1p-30 * std::sqrt(ample) : 0x1p-50 * ample)) break;
            value = h(r);
        }
        return r;
    }

    static double psi(const Vector3& s) {
        const double curve = s(1) * (std::log(s(2)) - std::log(s(1)));
        return std::max(curve - s(0), std::numeric_limits<double>::epsilon() * (std::abs(curve) + std::abs(s(0))));
    }

    // G at s, times sqrt(mu); returns mu phi'
    Vector3 forms(const Vector3& s, double at_psi, double mu) {
        const double y = s(1), z = s(2), size = std::sqrt(mu), root_psi = std::sqrt(at_psi * y);
        G_.row(0) << -size / at_psi, size * (std::log(z) - std::log(y) - 1.0) / at_psi, size * (y / z) / at_psi;
        G_.row(1) << 0.0, size / root_psi, -size * (y / z) / root_psi;
        G_.row(2) << 0.0, size / y, 0.0;
        G_.row(3) << 0.0, 0.0, size / z;
        return -size * (G_.row(0) + G_.row(2) + G_.row(3)).transpose();
    }

    // Newton's step for s in the prox, -(I + mu phi'')^-1 (s + v + mu phi'), into s; returns its decrement before it is taken.
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
        const double decrement = std::sqrt(std::max(-(e_0 * r_0 + e_1 * r_1 + e_2 * r_2) / mu, 0.0));
        if (!std::isfinite(decrement)) return decrement;
        const double length = decrement <= 0.25 ? 1.0 : 1.0 / (1.0 + decrement);
        s_ += length * Vector3(e_0, e_1, e_2);
        return decrement;
    }

    static Vector3 center() { return Vector3(-1.0513828793570063, 0.5564085700309546, 1.2589666996209303); }  // -phi'(e) = e

    // s, z and G at mu > 0, by Newton's method from s; false where its first decrement is not below `most`.
    bool prox(const Vector3& v, double mu, double most) {
        double before = infinity;
        for (int k = 0; k < most_steps; ++k) {
            const double decrement = newton(v, mu);
            if (k == 0 && !(decrement <= most)) return false;
            // a full step that does not square the decrement is rounding
            if (!(decrement > last_decrement) || (before <= 0.25 && decrement > 0.5 * before)) break;
            before = decrement;
        }
        const double multiplier = -(s_(0) + v(0)), at_psi = psi(s_);  // psi * multiplier = mu
        z_ = -forms(s_, multiplier > at_psi ? mu / multiplier : at_psi, mu);
        for (Index i = 0; i < 3; ++i) {
            if (!(std::abs(z_(i)) < std::abs(s_(i)))) z_(i) = v(i) + s_(i);
        }
        distance_ = (z_ - s_).norm();
        return true;
    }

    // Right singular vectors of G, and the squares of its singular values: one-sided Jacobi rotations.
    void frame() const {
        if (has_frame_) return;
        has_frame_ = true;
        Eigen::Matrix<double, 4, 3> U = G_;
        Q_.setIdentity();
        for (int sweep = 0; sweep < 30; ++sweep) {
            bool done = true;
            for (Index i = 0; i < 2; ++i) {
                for (Index j = i + 1; j < 3; ++j) {
                    const double both = U.col(i).dot(U.col(j)), at_i = U.col(i).squaredNorm(), at_j = U.col(j).squaredNorm();
                    if (!(std::abs(both) > 1e-16 * std::sqrt(at_i) * std::sqrt(at_j))) continue;
                    done = false;
                    const double t_0 = (at_j - at_i) / (2.0 * both);
                    const double t = (t_0 < 0.0 ? -1.0 : 1.0) / (std::abs(t_0) + std::hypot(1.0, t_0));
                    const double cosine = 1.0 / std::sqrt(1.0 + t * t), sine = cosine * t;
                    rotate_pair(U, i, j, cosine, sine);
                    rotate_pair(Q_, i, j, cosine, sine);
                }
            }
            if (done) break;
        }
        for (Index k = 0; k < 3; ++k) w_(k) = U.col(k).squaredNorm();
    }

    template <class Columns>
    static void rotate_pair(Columns& M, Index i, Index j, double cosine, double sine) {
        for (Index k = 0; k < M.rows(); ++k) {
            const double at_i = M(k, i), at_j = M(k, j);
            M(k, i) = cosine * at_i - sine * at_j;
            M(k, j) = sine * at_i + cosine * at_j;
        }
    }
};

}  // namespace core
