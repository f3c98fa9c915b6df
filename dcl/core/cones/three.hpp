// What the cones of R^3 share at a point (dcl/cones/three.py): the frame at mu = 0, and the prox of the barrier at mu > 0.
//
// mu = 0: -v is in K (z = 0), v in K* (s = 0), or -v = S a/|a| - Z b/|b| with a boundary ray a of K and its normal b in K*,
//
//     D = Q diag(0, 1, g) Q',   Q = (a/|a|, b/|b|, c),   g = Z tb / (S ta + Z tb),   da/dr = ta c,   db/dr = -tb c
//
// mu > 0: s = argmin mu phi(s) + |s + v|^2 / 2 by damped Newton steps (Nesterov 2018, section 5.2);  W = D (I - D)^-1 =
// mu phi''(s) = (sqrt(mu) G)'(sqrt(mu) G), with the rows of G in each cone's file, whose singular values keep what G'G has lost.
#pragma once

#include <Eigen/Dense>

#include "spectral.hpp"

namespace core {

using Vector3 = Eigen::Vector3d;
using Matrix3 = Eigen::Matrix3d;

// The value of a function that increases through zero, or a number of its sign, and Newton's step.
struct Trial {
    double value, step;
};

// Where such a function vanishes in [low, high]: Newton from r, halving where that is slow.  Without a change of sign: the nearer
// end.  A step of 2^-30 is the last: the next one would be its square.
template <class Function>
double root(const Function& f, double low, double high, double r) {
    constexpr int most_steps = 200;
    if (f(low).value >= 0.0) return low;
    if (f(high).value <= 0.0) return high;
    double last = high - low;
    Trial at = f(r);
    for (int k = 0; k < most_steps; ++k) {
        if (at.value <= 0.0) low = r;
        if (at.value >= 0.0) high = r;
        const double newton = r + at.step;
        const bool good = newton >= low && newton <= high && std::abs(at.step) <= 0.5 * last;
        const double next = good ? newton : 0.5 * (low + high), ample = 1.0 + std::abs(next);
        last = std::abs(next - r);
        r = next;
        if (last <= (good ? 0x1p-30 * std::sqrt(ample) : 0x1p-50 * ample)) break;
        at = f(r);
    }
    return r;
}

// Cone has:   project(v)         s, z, Q, w and the distance from the nearest kink at mu = 0
//             center()           e with -phi'(e) = e
//             newton(v, mu)      a Newton step of the prox from s, by `step`; returns its decrement
//             forms(v, mu)       sqrt(mu) G at the prox s of v; returns mu phi'(s)
// and G has so many rows.
template <class Cone, int forms_of_barrier>
struct Three {
    static constexpr Index size = 3;
    Index first = 0;

    explicit Three(Index row) : first(row) {}

    void evaluate(ConstVectorRef at, double mu, VectorRef z) {
        const Vector3 v = three(at);
        has_frame_ = mu == 0.0;
        // the last s is near the new one, most of the time
        if (!(mu > 0.0 && is_inside_ && prox(v, mu, nearest_decrement))) {
            cone().project(v);
            is_inside_ = mu > 0.0;
            if (is_inside_) {
                const Vector3 e = cone().center();
                const double ze = z_.dot(e);
                s_ += e * (6.0 * mu / (ze + std::sqrt(ze * ze + 36.0 * mu)));
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

protected:
    double distance_ = 0.0;
    Vector3 s_, z_;
    Eigen::Matrix<double, forms_of_barrier, 3> G_;  // times sqrt(mu)
    mutable Matrix3 Q_;
    mutable Vector3 w_;

    void in_cone(const Vector3& p, double distance) {
        s_ = p;
        z_.setZero();
        Q_.setIdentity();
        w_.setZero();
        distance_ = distance;
    }
    void in_polar(const Vector3& v, double distance) {
        s_.setZero();
        z_ = v;
        Q_.setIdentity();
        w_.setConstant(infinity);
        distance_ = distance;
    }
    // -v = p on the rays a, b, with ta |b| and tb |a| by a common factor
    void on_rays(const Vector3& p, const Vector3& a, const Vector3& b, double ta, double tb) {
        Q_.col(0) = a / a.norm();
        Q_.col(1) = b / b.norm();
        Q_.col(2) = Vector3(Q_.col(0)).cross(Vector3(Q_.col(1)));
        const double S = std::max(p.dot(Q_.col(0)), 0.0), Z = std::max(-p.dot(Q_.col(1)), 0.0);
        s_ = S * Q_.col(0);
        z_ = Z * Q_.col(1);
        w_ = Vector3(0.0, infinity, Z * tb > 0.0 ? Z * tb / (S * ta) : 0.0);
        distance_ = std::min(S, Z);
    }

    // s += the step e, damped; r: the gradient of the prox at s.  Returns the decrement before it is taken.
    double step(const Vector3& e, const Vector3& r, double mu) {
        const double decrement = std::sqrt(std::max(-e.dot(r) / mu, 0.0));
        if (!std::isfinite(decrement)) return decrement;
        s_ += (decrement <= 0.25 ? 1.0 : 1.0 / (1.0 + decrement)) * e;
        return decrement;
    }

private:
    static constexpr int most_steps = 200;
    // where the last s serves as a start; and of the last step, the next one would be its square
    static constexpr double nearest_decrement = 4.0, last_decrement = 3e-8;
    bool is_inside_ = false;  // is s in the interior of K, of an evaluation at mu > 0?
    mutable bool has_frame_ = false;

    Cone& cone() { return static_cast<Cone&>(*this); }

    template <class In>
    static Vector3 three(const In& u) {
        return Vector3(u(0), u(1), u(2));
    }
    template <class Out>
    static void put(const Vector3& t, Out&& u) {
        for (Index i = 0; i < 3; ++i) u(i) = t(i);
    }

    // s, z and G at mu > 0, by Newton's method from s; false where its first decrement is not below `most`.
    bool prox(const Vector3& v, double mu, double most) {
        double before = infinity;
        for (int k = 0; k < most_steps; ++k) {
            const double decrement = cone().newton(v, mu);
            if (k == 0 && !(decrement <= most)) return false;
            // a full step that does not square the decrement is rounding
            if (!(decrement > last_decrement) || (before <= 0.25 && decrement > 0.5 * before)) break;
            before = decrement;
        }
        z_ = -cone().forms(v, mu);
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
        Eigen::Matrix<double, forms_of_barrier, 3> U = G_;
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
