// types.hpp, factor.hpp, condensed.hpp, dual_path.hpp, elimination.hpp, condition.hpp, rows.hpp: factors and systems.
#include <tuple>

#include <Eigen/Dense>

#include "../condensed.hpp"
#include "../condition.hpp"
#include "../dual_path.hpp"
#include "programs.hpp"

using namespace test;

namespace {

const std::vector<Index> orders{0, 1, 2, 7, 24, 25, 40};  // both sides of core::small

void factor_times_itself() {
    Random random(1);
    for (const Index n : orders) {
        const Matrix M = random.definite(n);
        Matrix L = M;
        check(core::cholesky(L), "a definite matrix has a factor");
        const Matrix lower = L.triangularView<Eigen::Lower>();
        close(Matrix(lower * lower.transpose()), M, 1e-13, "L L' = M");
        const Vector b = random.vector(n);
        Vector x = b;
        core::solve_lower(L, x);
        core::solve_upper(L, x);
        close(Vector(M * x), b, 1e-12, "M x = b by two substitutions");
        Matrix K;
        core::invert_lower(core::MatrixView(L.data(), n, n), K);
        close(Matrix(K * lower), Matrix::Identity(n, n), 1e-13, "L^-1 L = I");
    }
}

void no_factor_of_what_is_not_definite() {
    for (const Index n : {1, 3, 30}) {
        Matrix M = Matrix::Identity(n, n);
        M(n - 1, n - 1) = -1e-3;
        check(!core::cholesky(M), "a negative eigenvalue");
        M = Matrix::Identity(n, n);
        M(n - 1, n - 1) = 1e-12;
        check(!core::cholesky(M, 1e-10), "a pivot below the floor");
        M.setConstant(std::numeric_limits<double>::quiet_NaN());
        check(!core::cholesky(M), "NaN");
    }
}

void gram_matrices() {
    Random random(2);
    for (const Index r : orders) {
        for (const Index n : {0, 3, 30}) {
            const Matrix V = random.matrix(n, r);
            Matrix N = Matrix::Identity(r, r);
            core::add_gram(V, -0.5, N);
            const Matrix expected = Matrix::Identity(r, r) - 0.5 * V.transpose() * V;
            close(Matrix(N.triangularView<Eigen::Lower>()), Matrix(expected.triangularView<Eigen::Lower>()), 1e-13, "N - V'V / 2");
        }
    }
}

void rows_and_their_transpose() {
    Random random(3);
    const Small small = random_program(random, 5, 2, 3, true);
    const Stated stated(small);
    const core::Program& program = stated.program;
    core::Rows rows;
    rows.gather(program, {1, 3, program.first_lower() + 4, program.first_upper() + 0});
    const Vector x = random.vector(5), y = random.vector(4), w = random.vector(4).cwiseAbs();
    Vector Bx(4), Bty = Vector::Zero(5), all(program.rows());
    rows.times(x, Bx);
    rows.add_transposed(y, Bty);
    close(Bx.dot(y), x.dot(Bty), 1e-14, "<B x, y> = <x, B'y>");
    program.times(x, all);
    close(Bx, Vector{{all(1), all(3), -x(4), x(0)}}, 1e-15, "B x are rows of the stacked ones");
    Matrix M = Matrix::Zero(5, 5), scratch;
    rows.add_gram(w, M, scratch);
    Vector weighed = w.cwiseProduct(Bx), back = Vector::Zero(5);
    rows.add_transposed(weighed, back);
    close(Vector(M.selfadjointView<Eigen::Lower>() * x), back, 1e-14, "B'W B x");
}

// K of factor.hpp, rows in the order strong, weak
Matrix kkt_matrix(const core::Factor& factor) {
    const Index n = factor.n(), k = factor.size();
    Matrix K = Matrix::Zero(n + k, n + k);
    for (Index j = 0; j < n + k; ++j) {
        const Vector e = Vector::Unit(n + k, j);
        Vector s1(n), s2(k);
        factor.multiply(e.head(n), e.tail(k), s1, s2);
        K.col(j).head(n) = s1;
        K.col(j).tail(k) = s2;
    }
    return K;
}

// Rows that are strong with T = 0 and T > 0, and weak ones; P > 0 and P with a zero row.
void saddle_systems() {
    Random random(4);
    for (const Index n : {3, 30}) {
        for (const bool is_definite : {true, false}) {
            const Small small = random_program(random, n, 1, 4, true);
            const Stated stated(small);
            Matrix P = stated.P;
            if (!is_definite) P.row(0).setZero(), P.col(0).setZero();
            core::Factor factor;
            factor.set(P.data(), n, 0.5);
            factor.strong.gather(stated.program, {0, stated.program.first_lower()});
            factor.weak.gather(stated.program, {2, stated.program.first_upper() + 1});
            factor.T = Vector{{0.0, 0.3}};
            factor.W = Vector{{0.7, 2.0}};
            Matrix L1(n, n), L2(2, 2), scratch;
            check(factor.compute(L1, L2, scratch), "the saddle system is regular");
            for (const bool often : {true, false}) {  // with the inverses of L1 and L2, and without
                factor.set_factors(L1.data(), L2.data(), often);
                const Matrix K = kkt_matrix(factor);
                close(K, Matrix(K.transpose()), 1e-14, "K is symmetric");
                const Vector r = random.vector(n + 4);
                Vector a(n), y(4), s1(n), s2(4), found(n + 4), rest(n + 4);
                factor.once(r.head(n), r.tail(4), a, y);
                found << a, y;
                close(found, Vector(K.partialPivLu().solve(r)), 1e-10, "K^-1 r");
                factor.residual(r.head(n), r.tail(4), a, y, s1, s2);
                rest << s1, s2;
                close(rest, Vector(r - K * found), 1e-13, "the compensated residual");
            }
        }
    }
}

void no_factor_of_dependent_rows() {
    Small small(3, 2, 0);
    small.P.setIdentity();
    small.At.col(0) << 1.0, 2.0, 0.0;
    small.At.col(1) = small.At.col(0);
    const Stated stated(small);
    core::Factor factor;
    factor.at_active_set(stated.program, {0, 1});
    Matrix L1(3, 3), L2(2, 2), scratch;
    check(!factor.compute(L1, L2, scratch), "a row that is there twice");
    core::Elimination elimination;
    Matrix L = stated.P;
    check(core::cholesky(L) && !elimination.compute(L, stated.program.C(), 2, false), "in the elimination too");
}

void compensated_sums_keep_what_rounding_takes() {
    core::Compensated sum;
    sum.start(Vector::Constant(1, 1.0));
    const double one = 1.0, near_one = 1.0 + 0x1p-30;
    for (int k = 0; k < 3; ++k) sum.subtract(&one, 1e16, 1);
    for (int k = 0; k < 3; ++k) sum.subtract(&one, -1e16, 1);
    check(sum.high(0) + sum.low(0) == 1.0, "1 - 3e16 + 3e16");
    sum.start(Vector::Constant(1, 1.0 + 0x1p-29));
    sum.subtract(&near_one, near_one, 1);  // the square is 2^-60 more
    check(sum.high(0) + sum.low(0) == -0x1p-60, "what rounding of a product takes");
    sum.start(Vector::Constant(1, 1.0 + 0x1p-29));
    sum.subtract_at(0, near_one, near_one);
    check(sum.high(0) + sum.low(0) == -0x1p-60, "of one entry too");
}

// S = diag(I, R) K diag(I, R),  R^2 = 1 / (1 + T)
void condition_between_its_bounds() {
    Random random(5);
    for (const Index n : {4, 12}) {
        const Small small = random_program(random, n, 1, 3, true);
        const Stated stated(small);
        core::Factor factor;
        factor.at_active_set(stated.program, {0, 2, stated.program.first_upper() + 3});
        Matrix L1(n, n), L2(3, 3), scratch;
        check(factor.compute(L1, L2, scratch), "regular");
        factor.set_factors(L1.data(), L2.data(), true);
        const Vector at_zero = kkt_matrix(factor).jacobiSvd().singularValues();
        const double exact = at_zero(0) / at_zero(n + 2);
        core::Condition condition;
        check(core::Condition::bound(factor) >= exact, "the bound is one");
        const double estimate = condition.estimate(factor);
        check(estimate <= exact * (1.0 + 1e-9) && estimate >= 0.1 * exact, "the estimate is from below");
        factor.T.setConstant(0.4);
        factor.weak.gather(stated.program, {1});
        factor.W = Vector::Constant(1, 0.2);
        check(factor.compute(L1, L2, scratch), "regular on the path");
        factor.set_factors(L1.data(), L2.data(), true);
        Vector R = Vector::Ones(n + 4);
        R.segment(n, 3).setConstant(1.0 / std::sqrt(1.4));
        R(n + 3) = std::sqrt(0.2 / 1.2);
        const Vector sizes = (R.asDiagonal() * kkt_matrix(factor) * R.asDiagonal()).jacobiSvd().singularValues();
        const double on_path = sizes(0) / sizes(n + 3), found = condition.estimate(factor);
        check(found <= on_path * (1.0 + 1e-9) && found >= 0.1 * on_path, "on the path too");
        check(std::isinf(core::Condition::bound(factor)), "where no bound is known");
    }
}

void elimination_of_equalities() {
    Random random(6);
    for (const auto& [n, p, m, bounds] : std::vector<std::tuple<Index, Index, Index, bool>>{
             {4, 2, 3, true}, {30, 5, 40, false}, {3, 0, 2, false}, {3, 3, 0, true}, {1, 0, 0, false}}) {
        const Small small = random_program(random, n, p, m, bounds);
        const Stated stated(small);
        Matrix L = stated.P;
        check(core::cholesky(L), "P > 0");
        core::Elimination e;
        check(e.compute(L, stated.program.C(), p, bounds), "independent rows");
        // N = R (P^-1 - P^-1 A'(A P^-1 A')^-1 A P^-1) R'
        Matrix R(m + (bounds ? n : 0), n);
        R.topRows(m) = stated.program.C().rightCols(m).transpose();
        if (bounds) R.bottomRows(n).setIdentity();
        const Matrix A = stated.program.C().leftCols(p).transpose(), inverse = stated.P.inverse(), PA = inverse * A.transpose();
        Matrix projected = inverse;
        if (p > 0) projected -= PA * (A * PA).inverse() * PA.transpose();
        close(e.N, Matrix(R * projected * R.transpose()), 1e-11, "N");
    }
}

// Newton's step on the path, by the condensed system, by the multipliers, and by the whole system
void steps_on_the_path() {
    Random random(7);
    for (const auto& [n, p, m, bounds] : std::vector<std::tuple<Index, Index, Index, bool>>{
             {4, 1, 3, true}, {30, 4, 8, false}, {3, 0, 2, true}, {3, 2, 0, false}, {2, 0, 0, false}}) {
        const Small small = random_program(random, n, p, m, bounds);
        const Stated stated(small);
        const core::Program& program = stated.program;
        const Index rows = program.rows();
        Vector W = Vector::Zero(rows);
        W.tail(rows - p) = (random.vector(rows - p).array() + 1.2).matrix();
        const Vector f_1 = random.vector(n), f_2 = random.vector(rows);
        // the stacked rows as a matrix
        Matrix C(rows, n);
        for (Index j = 0; j < n; ++j) {
            Vector column(rows);
            program.times(Vector::Unit(n, j), column);
            C.col(j) = column;
        }
        Matrix K = Matrix::Zero(n + p, n + p);
        K.topLeftCorner(n, n) = stated.P + C.bottomRows(rows - p).transpose() * W.tail(rows - p).asDiagonal() * C.bottomRows(rows - p);
        K.topRightCorner(n, p) = C.topRows(p).transpose();
        K.bottomLeftCorner(p, n) = C.topRows(p);
        Vector right(n + p);
        right << -f_1 - C.bottomRows(rows - p).transpose() * W.tail(rows - p).cwiseProduct(f_2.tail(rows - p)), -f_2.head(p);
        const Vector exact = K.partialPivLu().solve(right);
        core::Condensed condensed;
        check(condensed.compute(program, W), "condensed");
        Vector dx = right.head(n), dy = right.tail(p);
        condensed.solve(program, dx, dy);
        close(dx, Vector(exact.head(n)), 1e-9, "dx, condensed");
        close(dy, Vector(exact.tail(p)), 1e-9, "dy, condensed");
        Matrix L = stated.P;
        core::Elimination elimination;
        check(core::cholesky(L) && elimination.compute(L, program.C(), p, bounds), "P > 0");
        for (const bool often : {false, true}) {
            core::Factor factor;
            factor.set(stated.P.data(), n, 1.0);
            factor.set_first(L.data(), often);
            core::Dual dual;
            dual.compute(program, factor, elimination);
            core::DualPath path;
            const double mu = 0.1;
            check(path.follow(program, dual, mu, f_2, 1e-12, 60), "in the multipliers");
            dual.recover(program, factor, path.w, dx, dy);
            Vector z, s, v = path.v;
            v.head(p) = dy;
            core::take_halves(program, v, mu, z, s);
            close(Vector(s.tail(rows - p).cwiseProduct(z.tail(rows - p))), Vector::Constant(rows - p, mu), 1e-14, "s z = mu");
            close(Vector(C * dx + s), program.side, 1e-10, "feasible on the path");
            close(Vector(stated.P * dx + C.transpose() * z), Vector(-program.q), 1e-10, "stationary on the path");
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    return run(count, arguments,
               {{"factor_times_itself", factor_times_itself},
                {"no_factor_of_what_is_not_definite", no_factor_of_what_is_not_definite},
                {"gram_matrices", gram_matrices},
                {"rows_and_their_transpose", rows_and_their_transpose},
                {"saddle_systems", saddle_systems},
                {"no_factor_of_dependent_rows", no_factor_of_dependent_rows},
                {"compensated_sums_keep_what_rounding_takes", compensated_sums_keep_what_rounding_takes},
                {"condition_between_its_bounds", condition_between_its_bounds},
                {"elimination_of_equalities", elimination_of_equalities},
                {"steps_on_the_path", steps_on_the_path}});
}
