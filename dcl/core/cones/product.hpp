// K, a product of cones, at a point v: its projection, D = dz/dv and W = D (I - D)^-1, cone by cone.
//
//     rows: zero (D = I), nonnegative (h = 4 mu), then second-order, semidefinite, exponential and power cones in the order given
//     D = Q diag(d) Q',   w = d / (1 - d);   coordinate k of Q'y stands in row k
#pragma once

#include "exponential.hpp"
#include "power.hpp"
#include "second_order.hpp"
#include "semidefinite.hpp"

namespace core {

// A kind of cone; its size is as dcl/cones/base.py counts blocks, of semidefinite cones the order.
// upper, lower: the triangle that the rows of a semidefinite cone are, column by column.
enum class Kind : std::int64_t { zero = 0, nonnegative = 1, second_order = 2, upper = 3, lower = 4, exponential = 5, power = 6 };

struct Cones {
    Index zeros = 0, orthant = 0, rows = 0;  // zero rows, zero and nonnegative rows, all rows
    Index degree = 0;
    std::vector<SecondOrder> second_order;
    std::vector<Semidefinite> semidefinite;
    std::vector<Exponential> exponential;
    std::vector<Power> power;

    // A call of each block, in the order of the rows; exponents: those of power cones.
    void add(Kind kind, Index size, Index count, const std::vector<double>& exponents) {
        if (kind == Kind::zero || kind == Kind::nonnegative) {
            if (kind == Kind::zero) zeros += size;
            if (kind == Kind::nonnegative) degree += size;
            orthant += size;
            rows += size;
            return;
        }
        for (Index k = 0; k < count; ++k) {
            if (kind == Kind::second_order) {
                second_order.emplace_back(rows, size);
                degree += 2;
                rows += size;
            } else if (kind == Kind::exponential) {
                exponential.emplace_back(rows);
                degree += 3;
                rows += 3;
            } else if (kind == Kind::power) {
                power.emplace_back(rows, exponents.at(static_cast<std::size_t>(k)));
                degree += 3;
                rows += 3;
            } else {
                semidefinite.emplace_back(rows, size, kind == Kind::lower);
                degree += size;
                rows += semidefinite.back().size;
            }
        }
    }

    template <class Function>
    void each(Function&& f) const {
        for (const SecondOrder& cone : second_order) f(cone);
        for (const Semidefinite& cone : semidefinite) f(cone);
        each_three(f);
    }
    // Those of R^3.
    template <class Function>
    void each_three(Function&& f) const {
        for (const Exponential& cone : exponential) f(cone);
        for (const Power& cone : power) f(cone);
    }

    // The state at v, and z there.
    void evaluate(ConstVectorRef v, double mu, VectorRef z) {
        h_ = 4.0 * mu;
        v_ = v;
        z.head(zeros) = v.head(zeros);
        for (Index i = zeros; i < orthant; ++i) z(i) = image(v(i), h_);
        const auto one = [&](auto& cone) {
            cone.evaluate(v.segment(cone.first, cone.size), mu, z.segment(cone.first, cone.size));
        };
        for (SecondOrder& cone : second_order) one(cone);
        for (Semidefinite& cone : semidefinite) one(cone);
        for (Exponential& cone : exponential) one(cone);
        for (Power& cone : power) one(cone);
    }

    double d(Index row) const { return row < zeros ? 1.0 : slope(v_(row), v_(row), h_); }
    double w(Index row) const { return row < zeros ? infinity : weight(v_(row), v_(row), h_); }

    void to_eigen(VectorRef w) const {
        each([&](const auto& cone) { cone.to_eigen(w.segment(cone.first, cone.size)); });
    }
    void from_eigen(VectorRef w) const {
        each([&](const auto& cone) { cone.from_eigen(w.segment(cone.first, cone.size)); });
    }

    // All d, and all w.
    void slopes(Vector& out) const {
        out.resize(rows);
        for (Index i = 0; i < orthant; ++i) out(i) = d(i);
        each([&](const auto& cone) {
            for (Index k = 0; k < cone.size; ++k) out(cone.first + k) = cone.d(k);
        });
    }
    void weights(Vector& out) const {
        out.resize(rows);
        for (Index i = 0; i < orthant; ++i) out(i) = w(i);
        each([&](const auto& cone) {
            for (Index k = 0; k < cone.size; ++k) out(cone.first + k) = cone.w(k);
        });
    }

    // u <- W u, 0 on zero rows; mu > 0
    void weigh(VectorRef u) const {
        u.head(zeros).setZero();
        for (Index i = zeros; i < orthant; ++i) u(i) *= w(i);
        each([&](const auto& cone) { cone.weigh(u.segment(cone.first, cone.size)); });
    }

private:
    Vector v_;
    double h_ = 0.0;
};

}  // namespace core
