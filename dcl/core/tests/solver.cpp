// data.hpp, residuals.hpp, pivoting.hpp, definite.hpp, interior_point.hpp, path.hpp, certify.hpp, given.hpp: from data to a verdict.
#include <Eigen/Dense>

#include "../given.hpp"
#include "../solver.hpp"
#include "programs.hpp"

using namespace test;
using core::infinity;

namespace {

void units_are_powers_of_two() {
    for (const double size : {1e-300, 1e-9, 0.4, 0.5, 0.7, 0.71, 1.0, 1.4, 3.0, 1e20}) {
        int exponent = 0;
        check(std::frexp(core::unit(size), &exponent) == 0.5, "a power of two");
        const double scaled = size * core::unit(size);
        check(scaled >= 0.70710678 && scaled <= 1.41421357, "the next one");
    }
    for (const double size : {0.0, infinity, std::numeric_limits<double>::quiet_NaN()}) check(core::unit(size) == 1.0, "1 for no size");
}

void data_as_they_are_read() {
    Small small(2, 1, 2);
    small.P << 2.0, 1.0, 3.0, 8.0;
    small.q << 1.0, -5.0;
    small.At.col(0) << 0.5, -4.0;
    small.b << 3.0;
    small.Gt << 1.0, 0.0, 0.0, 1.0;
    small.h << infinity, 2.0;
    small.lb = Vector::Constant(2, -infinity);
    small.ub = Vector{{infinity, 7.0}};
    const Stated stated(small);
    const core::Program& program = stated.program;
    close(stated.curvature.P, Matrix{{2.0, 2.0}, {2.0, 8.0}}, 0.0, "P is symmetrized");
    check(!stated.curvature.is_symmetric && program.c == 0.125, "and has a unit");
    close(Matrix(stated.general.C.col(0)), Matrix(small.At / 4.0), 0.0, "a row of size 1");
    close(program.side(0), 0.75, 0.0, "and its side");
    check(program.inequalities() == 2 && !program.binds(1) && program.binds(2), "infinite sides bind nothing");
    check(!program.binds(3) && !program.binds(5) && program.binds(6) && program.variable(6) == 1, "bounds too");
    const Vector x{{2.0, 3.0}}, z{{1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 5.0}};
    Vector Ax(7), ATz = Vector::Zero(2);
    program.times(x, Ax);
    program.add_transposed(z, ATz);
    close(Ax, Vector{{-2.75, 0.0, 3.0, 0.0, 0.0, 0.0, 3.0}}, 1e-15, "A x");
    close(Ax.dot(z), x.dot(ATz), 1e-14, "<A x, z> = <x, A'z>");
}

void float32_is_read_as_such() {
    const std::vector<float> q{1.5F, -0.1F};
    core::Call call;
    call.batch = 1, call.n = 2, call.single = true;
    call.q = {q.data(), 0};
    core::Program program;
    program.load_vectors(call, 0);
    check(program.q(0) == 1.5 && program.q(1) == static_cast<double>(-0.1F), "the same numbers");
}

// minimize x^2 / 2 - 3 x subject to x <= 1: x = 1, z = 2
void residuals_by_hand() {
    Small small(1, 0, 1);
    small.P << 1.0;
    small.q << -3.0;
    small.Gt << 1.0;
    small.h << 1.0;
    const Stated stated(small);
    const double c = stated.program.c;
    core::Residuals r;
    Vector x{{1.0}}, z{{2.0 * c}}, s{{0.0}};
    r.products(stated.program, x, z);
    r.measure(stated.program, x, z, s);
    check(r.worst() == 0.0, "none at the solution");
    x << 1.25;
    r.products(stated.program, x, z);
    r.measure(stated.program, x, z, s);
    close(r.primal, 0.25 / (1e-5 + 1.25 + 1.0), 1e-15, "primal");
    close(r.dual, 0.25 * c / (1e-5 + c * (1.25 + 3.0 + 2.0)), 1e-15, "dual");
    close(r.net_primal, 0.25 / 2.25, 1e-15, "net primal");
    close(r.net_dual, 0.25 * c / (1.0 + 3.0 * c), 1e-15, "net dual");
    close(r.gap, std::abs(1.5625 - 3.75 + 2.0) * c / (1e-5 + c * (1.5625 + 3.75 + 2.0)), 1e-15, "gap");
    x << std::numeric_limits<double>::quiet_NaN();
    r.products(stated.program, x, z);
    r.measure(stated.program, x, z, s);
    check(r.worst() == infinity, "NaN is infinite");
}

// Conditions of the active set: these hold for one w only where N is definite on it.
void check_active_set(const core::Pivoting& p, const Matrix& N, const Vector& a_0) {
    Vector w = Vector::Zero(a_0.size());
    for (Index j = 0; j < core::count(p.active); ++j) w(p.active[j]) = p.w(j);
    close(p.a, Vector(a_0 - N * w), 1e-9, "a = a_0 - N w");
    for (Index i = 0; i < w.size(); ++i) {
        check(p.a(i) <= p.hi(i) + 1e-8 && p.a(i) >= p.lo(i) - 1e-8, "lo <= a <= hi");
        if (w(i) > 1e-9) close(p.a(i), p.hi(i), 1e-8, "w > 0 at hi only");
        if (w(i) < -1e-9) close(p.a(i), p.lo(i), 1e-8, "w < 0 at lo only");
    }
}

void pivoting_finds_the_active_set() {
    Random random(1);
    for (int k = 0; k < 200; ++k) {
        // rows of unit length in `room` dimensions, some of them nearly parallel: there the dual method takes over
        const Index room = 1 + k % 12, r = 1 + (3 * k) % 25;
        Matrix V = random.matrix(room, r);
        for (Index j = 1; j < r; j += 2) V.col(j) = V.col(j - 1) + 0.1 * V.col(j);
        const Matrix N = V.transpose() * V;
        const Vector inside = V.transpose() * random.vector(room);
        core::Pivoting pivoting;
        pivoting.hi = inside.array() + 0.3 * (random.vector(r).array() + 1.1);
        pivoting.lo = inside.array() - 0.3 * (random.vector(r).array() + 1.1);
        if (k % 4 == 0) pivoting.lo.setConstant(-infinity);
        pivoting.state.assign(static_cast<std::size_t>(r), 0);
        if (k % 3 == 0 && pivoting.lo(0) > -infinity) pivoting.state[0] = -1;  // a start of nonsense
        const Vector a_0 = V.transpose() * random.vector(room) * 3.0;
        check(pivoting.solve(N, a_0, room), "a feasible program has an active set");
        check_active_set(pivoting, N, a_0);
    }
}

void pivoting_says_where_there_is_none() {
    const Matrix N{{1.0, -1.0}, {-1.0, 1.0}};  // x <= -1 and -x <= -1
    core::Pivoting pivoting;
    pivoting.hi = Vector::Constant(2, -1.0);
    pivoting.lo = Vector::Constant(2, -infinity);
    pivoting.state.assign(2, 0);
    check(!pivoting.solve(N, Vector::Zero(2), 1), "infeasible");
    core::Pivoting empty;
    empty.hi = empty.lo = Vector(0);
    check(empty.solve(Matrix(0, 0), Vector(0), 3) && empty.active.empty(), "no rows: nothing is active");
}

// The KKT conditions by dense linear algebra, in the program's units.
void check_optimal(const Stated& stated, const core::Point& point, double tolerance) {
    const core::Program& program = stated.program;
    Vector r = program.q + stated.P * point.x, Ax(program.rows());
    program.add_transposed(point.z, r);
    program.times(point.x, Ax);
    close(core::magnitude(r), 0.0, tolerance, "P x + q + A'z = 0");
    for (Index i = 0; i < program.rows(); ++i) {
        if (!program.binds(i)) continue;
        const double slack = program.side(i) - Ax(i);
        if (i < program.p) {
            close(slack, 0.0, tolerance, "A x = b");
        } else {
            check(slack >= -tolerance && point.z(i) >= -tolerance, "signs");
            close(slack * point.z(i), 0.0, tolerance, "complementarity");
        }
    }
}

void definite_programs() {
    Random random(2);
    for (int k = 0; k < 60; ++k) {
        const Index n = 1 + k % 30, p = k % 3 == 0 ? 0 : n / 3, m = k % 4 * 5;
        const Small small = random_program(random, n, p, m, k % 2 == 0);
        const Stated stated(small);
        Matrix L = stated.P, L2;
        check(core::cholesky(L), "P > 0");
        core::DefiniteSolver solver;
        core::Point point;
        core::Factor factor;
        core::Start nowhere;
        point.reset(stated.program);
        check(solver.solve(stated.program, L, nullptr, nowhere, point, L2, factor), "solved");
        core::Certifier certifier;
        core::Residuals residuals;
        const core::Certificate verdict = certifier(stated.program, factor, point, residuals);
        check(verdict.status == core::Status::certified || verdict.status == core::Status::tie, "certified, but for a tie");
        check_optimal(stated, point, 1e-11);
    }
}

// minimize q'x on the simplex: all at the smallest entry of q
void interior_point_on_a_simplex() {
    Small small(5, 1, 0);
    small.q << 0.3, -0.2, 0.9, 0.1, 0.4;
    small.At.setOnes();
    small.b << 1.0;
    small.lb = Vector::Zero(5);
    const Stated stated(small);
    core::InteriorPoint interior;
    int asked = 0;
    const bool found = interior.solve(stated.program, [&](const Vector& x, const Vector&, const Vector& z, const Vector& s) {
        ++asked;
        for (Index j = 0; j < 5; ++j) check((z(1 + j) > s(1 + j)) == (j != 1), "the bounds of all but the smallest are active");
        close(x, Vector::Unit(5, 1), 0.2, "near the vertex");
        return true;
    });
    check(found && asked == 1, "the first guess stands");
    core::InteriorPoint never;
    check(!never.solve(stated.program, [](const Vector&, const Vector&, const Vector&, const Vector&) { return false; }), "it ends");
    close(never.x, Vector::Unit(5, 1), 1e-6, "at the vertex");
}

// minimize |x|^2 / 2 + q'x - mu sum log x: x = (-q + sqrt(q^2 + 4 mu)) / 2
void path_in_closed_form() {
    const double mu = 0.3;
    for (const bool in_multipliers : {false, true}) {
        Small small(3, 0, 0);
        small.P.setIdentity();
        small.q << 1.0, -0.5, 0.75;
        small.lb = Vector::Zero(3);
        const Stated stated(small);
        const core::Program& program = stated.program;
        core::Point point;
        point.reset(program);
        point.x = (-small.q).cwiseMax(0.0);
        point.s = point.x;
        point.z = small.q.cwiseMax(0.0);
        Matrix L = stated.P;
        core::Elimination elimination;
        check(core::cholesky(L) && elimination.compute(L, program.C(), 0, true), "P > 0");
        core::Factor of_P;
        of_P.set(stated.P.data(), 3, 1.0);
        of_P.set_first(L.data(), true);
        core::Dual dual;
        dual.compute(program, of_P, elimination);
        core::Path path;
        check(path.follow(program, point, mu, of_P, in_multipliers ? &dual : nullptr), "followed");
        check(path.in_multipliers == in_multipliers, "the way that was asked for");
        core::Factor factor;
        core::Integers weak;
        Matrix L1(3, 3), L2, scratch;
        if (in_multipliers) {
            factor.set(stated.P.data(), 3, 1.0);
            factor.set_first(L.data(), true);
            check(core::Path::join(program, point, elimination, L2, factor), "N + T > 0");
            check(factor.strong.size() == 3 && factor.weak.size() == 0, "every row is strong");
        } else {
            core::Path::split(program, point, factor, weak);
            check(factor.size() == 3, "every row is strong or weak");
            L2.resize(factor.strong.size(), factor.strong.size());
            check(factor.compute(L1, L2, scratch), "regular");
            factor.set_factors(L1.data(), L2.data(), true);
        }
        core::Step step;
        for (int k = 0; k < 3; ++k) path.sharpen(program, factor, weak, point, mu, step);
        const Vector expected = 0.5 * (-small.q.array() + (small.q.array().square() + 4.0 * mu).sqrt());
        close(point.x, expected, 1e-13, "x(mu)");
        close(Vector(point.s.cwiseProduct(point.z)), Vector::Constant(3, mu), 1e-13, "s z = mu");
    }
}

// minimize x^2 / 2 + q x subject to x >= 0: v = x - z = -q
core::Status verdict_on(double q) {
    Small small(1, 0, 0);
    small.P << 1.0;
    small.q << q;
    small.lb = Vector::Zero(1);
    const core::Call call = small.call();
    core::Shared shared;
    shared.prepare(call);
    core::Worker worker;
    core::Record record;
    return worker.solve(call, shared, 0, {}, 0.0, record).status;
}

void verdicts() {
    check(verdict_on(0.5) == core::Status::certified, "active");
    check(verdict_on(-0.5) == core::Status::certified, "inactive");
    check(verdict_on(0.0) == core::Status::tie, "a tie");
    check(verdict_on(1e-12) == core::Status::tie, "nearly a tie");
    check(verdict_on(infinity) == core::Status::not_finite, "infinite");
    const auto status_of = [](const Small& small) {
        const core::Call call = small.call();
        core::Shared shared;
        shared.prepare(call);
        core::Worker worker;
        core::Record record;
        return worker.solve(call, shared, 0, {}, 0.0, record).status;
    };
    Small concave(1, 0, 0);
    concave.P << -1.0;
    check(status_of(concave) == core::Status::not_psd, "a negative eigenvalue");
    Small twice(2, 2, 0);
    twice.P.setIdentity();
    twice.At.setOnes();
    twice.b.setOnes();
    check(status_of(twice) != core::Status::certified, "a row that is there twice");
    Small none(1, 0, 2);
    none.P << 1.0;
    none.Gt << 1.0, -1.0;
    none.h << -1.0, -1.0;
    check(status_of(none) == core::Status::not_solved, "infeasible");
    Small free(2, 0, 0);
    free.P.setIdentity();
    free.q << 1.0, -2.0;
    check(status_of(free) == core::Status::certified, "no rows at all");
}

// given.hpp on the program of residuals_by_hand, by nonzeros
void measure_by_nonzeros() {
    const std::int64_t zero = 0;
    const double P = 1.0, A = 1.0, q = -3.0, b = 1.0, x = 1.25, z = 2.0;
    const std::uint8_t holds = 1;
    double r_x = 0.0, r_z = 0.0, s = 0.0, residuals[4] = {0, 0, 0, 0}, value = 0.0;
    core::Given t;
    t.batch = 1, t.n = 1, t.m = 1;
    t.P = {&zero, &zero, 1, &P, 0};
    t.A = {&zero, &zero, 1, &A, 0};
    t.q = {&q, 0}, t.b = {&b, 0}, t.x = {&x, 1}, t.z = {&z, 1}, t.holds = {&holds, 0};
    t.r_x = {&r_x, 1}, t.r_z = {&r_z, 1}, t.s = {&s, 1}, t.residuals = {residuals, 4}, t.value = {&value, 1};
    core::measure(t, 1);
    close(r_x, -0.25, 0.0, "-(P x + q + A'z)");
    close(r_z, -0.25, 0.0, "b - A x");
    close(value, 0.78125 - 3.75, 1e-15, "value");
    close(residuals[0], 0.25 / (1e-5 + 2.25), 1e-15, "primal");
    close(residuals[1], 0.25 / (3e-5 + 6.25), 1e-15, "dual");
    close(residuals[2], 0.1875 / (3e-5 + 7.3125), 1e-15, "gap");
    close(residuals[3], 0.25 / 2.25, 1e-15, "net");
}

}  // namespace

int main(int count, char** arguments) {
    return run(count, arguments,
               {{"units_are_powers_of_two", units_are_powers_of_two},
                {"data_as_they_are_read", data_as_they_are_read},
                {"float32_is_read_as_such", float32_is_read_as_such},
                {"residuals_by_hand", residuals_by_hand},
                {"pivoting_finds_the_active_set", pivoting_finds_the_active_set},
                {"pivoting_says_where_there_is_none", pivoting_says_where_there_is_none},
                {"definite_programs", definite_programs},
                {"interior_point_on_a_simplex", interior_point_on_a_simplex},
                {"path_in_closed_form", path_in_closed_form},
                {"verdicts", verdicts},
                {"measure_by_nonzeros", measure_by_nonzeros}});
}
