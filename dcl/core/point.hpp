// A point with its active set, and Newton's method on the KKT system there.
//
//     K(dx, dz) = (-(Px + q + A'z),  b - Ax)  on the strong rows, at mu = 0
#pragma once

#include "factor.hpp"
#include "residuals.hpp"

namespace core {

struct Point {
    Vector x, z, s;       // z and s of the stacked rows, zero on rows that are not finite
    Integers strong;      // rows of `Factor::strong` in its order: equalities, active rows; general ones first
    Vector y;             // z of the strong rows

    void reset(const Program& program) {
        x.setZero(program.n);
        z.setZero(program.rows());
        s.setZero(program.rows());
        strong.clear();
        y.resize(0);
    }

    // The equalities, and the rows with z > s.
    void list_strong(const Program& program) {
        strong.clear();
        for (Index i = 0; i < program.rows(); ++i) {
            if (i < program.p || (program.binds(i) && z(i) > s(i))) strong.push_back(i);
        }
    }

    bool signs_hold(const Program& program) const {
        for (Index i = program.p; i < program.rows(); ++i) {
            if (s(i) < 0.0 || z(i) < 0.0) return false;
        }
        return true;
    }

    // z from y; s is what the other rows leave.  Ax: of the stacked rows.
    void spread() {
        z.setZero();
        for (Index k = 0; k < count(strong); ++k) z(strong[k]) = y(k);
    }
    void take_slacks(const Program& program, ConstVectorRef Ax) {
        for (Index i = program.p; i < program.rows(); ++i) {
            s(i) = program.binds(i) ? program.side(i) - Ax(i) : 0.0;
        }
        s.head(program.p).setZero();
        for (const Index row : strong) s(row) = 0.0;
    }
};

// Buffers for right-hand sides and steps.
struct Step {
    Vector r1, r2, a, y, s1, s2;

    void resize(Index n, Index k) {
        r1.resize(n), a.resize(n), s1.resize(n);
        r2.resize(k), y.resize(k), s2.resize(k);
    }
};

// One Newton step at mu = 0 with the strong rows as they are; returns |dx| / (1 + |x|).  compensated: see Factor::residual.
inline double newton_step(const Program& program, const Factor& factor, Point& point, Step& step, bool compensated) {
    const Index k = factor.strong.size();
    step.resize(program.n, k);
    for (Index i = 0; i < k; ++i) step.s2(i) = program.side(point.strong[i]);
    if (compensated) {
        step.s1 = -program.q;
        factor.residual(step.s1, step.s2, point.x, point.y, step.r1, step.r2);
    } else {
        factor.multiply(point.x, point.y, step.r1, step.r2);
        step.r1 = -(step.r1 + program.q);
        step.r2 = step.s2 - step.r2;
    }
    factor.once(step.r1, step.r2, step.a, step.y);
    point.x += step.a;
    point.y += step.y;
    return std::max(magnitude(step.a) / (1.0 + magnitude(point.x)), magnitude(step.y) / (1.0 + magnitude(point.y)));
}

}  // namespace core
