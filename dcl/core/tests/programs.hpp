// A small program for the tests, in memory of its own.
#pragma once

#include "../shared.hpp"
#include "check.hpp"

namespace test {

// Rows of A and G as columns of At and Gt: what a caller's row-major matrices are to Eigen.
struct Small {
    Matrix P, At, Gt;
    Vector q, b, h, lb, ub;

    Small(Index n, Index p, Index m)
        : P(Matrix::Zero(n, n)), At(Matrix::Zero(n, p)), Gt(Matrix::Zero(n, m)), q(Vector::Zero(n)), b(Vector::Zero(p)), h(Vector::Zero(m)) {}

    core::Call call() const {
        core::Call out;
        out.batch = 1, out.n = q.size(), out.p = b.size(), out.m = h.size();
        out.P = {P.data(), 0}, out.q = {q.data(), 0};
        out.A = {At.data(), 0}, out.b = {b.data(), 0}, out.G = {Gt.data(), 0}, out.h = {h.data(), 0};
        if (lb.size() > 0) out.lb = {lb.data(), 0};
        if (ub.size() > 0) out.ub = {ub.data(), 0};
        return out;
    }
};

// The same in its units, with the storage that `core::Program` refers to.
struct Stated {
    core::Curvature curvature;
    core::General general;
    core::Program program;
    Matrix P;

    explicit Stated(const Small& small) {
        const core::Call call = small.call();
        curvature.load(call, 0);
        general.load(call, 0);
        program.load_vectors(call, 0);
        program.general = &general;
        program.scale(core::unit(std::max(curvature.size, core::magnitude(program.q))));
        P = program.c * curvature.P;
        program.P = &P;
        program.is_zero = curvature.is_zero;
    }
    Stated(const Stated&) = delete;
    Stated& operator=(const Stated&) = delete;
};

// A random program with a feasible point inside: P > 0, p equalities, m inequalities, and bounds where asked for.
inline Small random_program(Random& random, Index n, Index p, Index m, bool bounds) {
    Small out(n, p, m);
    out.P = random.definite(n);
    out.q = random.vector(n);
    const Vector x = 0.5 * random.vector(n);
    out.At = random.matrix(n, p);
    out.b = out.At.transpose() * x;
    out.Gt = random.matrix(n, m);
    out.h = out.Gt.transpose() * x + 0.2 * (random.vector(m).array() + 1.1).matrix();
    if (bounds) {
        out.lb = x.array() - 0.3;
        out.ub = x.array() + 0.3;
    }
    return out;
}

}  // namespace test
