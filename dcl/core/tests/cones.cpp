// cones/*.hpp, conic_newton.hpp, conic_path.hpp: projections by the conditions that define them, the systems that are made of them.
#include <Eigen/Dense>

#include "../conic_newton.hpp"
#include "../conic_path.hpp"
#include "check.hpp"

using namespace test;
using core::Cones;
using core::Kind;

namespace {

constexpr double quiet = 1e-12;
constexpr double exponent = 0.3;  // of all power cones

struct Block {
    Kind kind;
    Index size, first;
};

struct Product {
    std::vector<Block> blocks;
    Cones cones;

    Product(std::initializer_list<std::pair<Kind, Index>> list) {
        for (const auto& [kind, size] : list) {
            blocks.push_back({kind, size, cones.rows});
            cones.add(kind, size, 1, {exponent});
        }
    }
};

// Every cone, alone and in a product; sizes one and two, where a second-order cone is a ray and a quarter of the plane.
std::vector<Product> all_cones() {
    return {Product(std::initializer_list<std::pair<Kind, Index>>{}),
            Product({{Kind::zero, 2}}),
            Product({{Kind::nonnegative, 3}}),
            Product({{Kind::second_order, 1}}),
            Product({{Kind::second_order, 2}}),
            Product({{Kind::second_order, 9}}),
            Product({{Kind::upper, 1}}),
            Product({{Kind::upper, 3}}),
            Product({{Kind::lower, 3}}),
            Product({{Kind::exponential, 3}}),
            Product({{Kind::power, 3}}),
            Product({{Kind::zero, 1},
                     {Kind::nonnegative, 2},
                     {Kind::second_order, 3},
                     {Kind::second_order, 10},
                     {Kind::upper, 2},
                     {Kind::lower, 3},
                     {Kind::exponential, 3},
                     {Kind::exponential, 3},
                     {Kind::power, 3},
                     {Kind::power, 3}})};
}

Vector image(Cones& cones, const Vector& v, double mu) {
    Vector z(v.size());
    cones.evaluate(v, mu, z);
    return z;
}

// the matrix of a linear map that works in place
template <class Map>
Matrix matrix_of(Index size, Map&& map) {
    Matrix out(size, size);
    for (Index j = 0; j < size; ++j) {
        Vector e = Vector::Unit(size, j);
        map(e);
        out.col(j) = e;
    }
    return out;
}
Matrix D_of(const Cones& cones) {
    Vector slopes;
    cones.slopes(slopes);
    return matrix_of(cones.rows, [&](Vector& u) {
        cones.to_eigen(u);
        u = u.cwiseProduct(slopes);
        cones.from_eigen(u);
    });
}

// svec's inverse, the triangle by columns
Matrix smat(const Vector& w, Index order, bool lower) {
    Matrix X(order, order);
    Index k = 0;
    for (Index j = 0; j < order; ++j) {
        for (Index i = lower ? j : 0; i < (lower ? order : j + 1); ++i) {
            X(i, j) = X(j, i) = i == j ? w(k) : w(k) / std::sqrt(2.0);
            ++k;
        }
    }
    return X;
}

// How far s is from K, or from K* where `dual`: 0 inside.
double outside(const Product& product, const Vector& s, bool dual) {
    double least = 0.0;
    const auto inside = [&](double distance) { least = std::min(least, distance); };
    for (const auto& [kind, size, first] : product.blocks) {
        switch (kind) {
            case Kind::zero:
                if (!dual && size > 0) inside(-s.segment(first, size).cwiseAbs().maxCoeff());
                break;
            case Kind::nonnegative:
                inside(s.segment(first, size).minCoeff());
                break;
            case Kind::second_order:
                inside(s(first) - s.segment(first + 1, size - 1).norm());
                break;
            case Kind::upper:
            case Kind::lower: {
                const Matrix X = smat(s.segment(first, size * (size + 1) / 2), size, kind == Kind::lower);
                inside(Eigen::SelfAdjointEigenSolver<Matrix>(X).eigenvalues().minCoeff());
                break;
            }
            case Kind::exponential: {
                const double x = s(first), y = s(first + 1), z = s(first + 2);
                if (dual) {  // -x exp(y / x - 1) <= z, x < 0;  or x = 0, y >= 0
                    inside(-x), inside(z);
                    inside(x < 0.0 ? z + x * std::exp(y / x - 1.0) : y);
                } else {  // y exp(x / y) <= z, y > 0;  or y = 0, x <= 0
                    inside(y), inside(z);
                    inside(y > 0.0 ? z - y * std::exp(x / y) : -x);
                }
                break;
            }
            case Kind::power: {  // (x/m)^a (y/n)^b >= |z|, x, y >= 0, with m = a and n = b in K*, else 1
                const double x = s(first), y = s(first + 1), m = dual ? exponent : 1.0, n = dual ? 1.0 - exponent : 1.0;
                inside(x), inside(y);
                inside(std::pow(std::max(x, 0.0) / m, exponent) * std::pow(std::max(y, 0.0) / n, 1.0 - exponent) -
                       std::abs(s(first + 2)));
                break;
            }
        }
    }
    return -least;
}

// Moreau: these four hold for the projections s of -v onto K and z of v onto K* only.
void projections() {
    Random random(1);
    for (Product& product : all_cones()) {
        for (int k = 0; k < 30; ++k) {
            const Vector v = random.vector(product.cones.rows) * (k % 3 == 0 ? 1e-3 : 2.0);
            const Vector z = image(product.cones, v, 0.0), s = z - v;
            const double size = 1.0 + core::magnitude(v);
            check(outside(product, s, false) <= 1e-10 * size, "s in K");
            check(outside(product, z, true) <= 1e-10 * size, "z in K*");
            close(s.dot(z), 0.0, 1e-10 * size * size, "s'z = 0");
        }
    }
}

// On the path s'z = mu * degree, and both are inside.
void central_points() {
    Random random(2);
    for (Product& product : all_cones()) {
        for (const double mu : {1e-4, 0.7}) {
            const Vector v = random.vector(product.cones.rows) * 2.0;
            const Vector z = image(product.cones, v, mu), s = z - v;
            check(outside(product, s, false) <= 1e-13 && outside(product, z, true) <= 1e-13, "inside");
            close(s.dot(z), mu * static_cast<double>(product.cones.degree), 1e-12, "s'z = mu * degree");
        }
    }
}

void derivatives_are_differences() {
    Random random(3);
    for (Product& product : all_cones()) {
        for (const double mu : {0.0, 1e-2, 0.7}) {
            for (int k = 0; k < 4; ++k) {
                const Vector v = random.vector(product.cones.rows) * 2.0, t = random.vector(v.size());
                const double h = 1e-6;
                const Vector up = image(product.cones, v + h * t, mu), down = image(product.cones, v - h * t, mu);
                image(product.cones, v, mu);
                const Matrix D = D_of(product.cones);
                close(Vector(D * t), Vector((up - down) / (2.0 * h)), 2e-7, "D t");
                close(D, Matrix(D.transpose()), quiet, "D is symmetric");
            }
        }
    }
}

// Q is orthogonal; rotate is A'Q;  W = D (I - D)^-1
void eigenvectors_and_weights() {
    Random random(4);
    for (Product& product : all_cones()) {
        Cones& cones = product.cones;
        const Index n = 4;
        for (const double mu : {0.0, 0.3}) {
            const Vector v = random.vector(cones.rows) * 2.0;
            image(cones, v, mu);
            const Matrix Qt = matrix_of(cones.rows, [&](Vector& u) { cones.to_eigen(u); });
            const Matrix Q = matrix_of(cones.rows, [&](Vector& u) { cones.from_eigen(u); });
            close(Matrix(Qt * Q), Matrix::Identity(cones.rows, cones.rows), quiet, "Q'Q = I");
            Matrix A = random.matrix(n, cones.rows), B = A;
            A = (A.array().abs() < 0.5).select(0.0, A);  // rows with few entries too
            cones.each([&](const auto& cone) { cone.rotate(A.middleCols(cone.first, cone.size), B.middleCols(cone.first, cone.size)); });
            const Index rest = cones.rows - cones.orthant;
            close(Matrix(B.rightCols(rest)), Matrix((A * Q).rightCols(rest)), quiet, "A'Q");
            if (mu == 0.0) continue;
            const Matrix D = D_of(cones).bottomRightCorner(cones.rows - cones.zeros, cones.rows - cones.zeros);
            const Matrix W = matrix_of(cones.rows, [&](Vector& u) { cones.weigh(u); });
            const Matrix I = Matrix::Identity(D.rows(), D.rows());
            close(Matrix(W.bottomRightCorner(D.rows(), D.rows()) * (I - D)), D, 1e-10, "W (I - D) = D");
        }
    }
}

// A'W A by its parts, for rows with many entries and with few, and its split into strong and weak rows.
void systems_of_the_path() {
    Random random(5);
    for (Product& product : all_cones()) {
        Cones& cones = product.cones;
        for (const bool few : {false, true}) {
            const Index n = 12, others = cones.rows - cones.zeros;
            Matrix C = random.matrix(n, cones.rows);
            if (few) C.bottomRows(n - 2).setZero();
            const Vector v = random.vector(cones.rows) * 2.0;
            image(cones, v, 1e-2);
            core::Grams grams;
            grams.compute(cones, C);
            const Matrix W = matrix_of(cones.rows, [&](Vector& u) { cones.weigh(u); });
            const Matrix expected = C * W * C.transpose();
            core::Assembly assembly;
            Matrix M = Matrix::Zero(n, n);
            assembly.add_weighted(cones, C, grams, M);
            const double size = 1.0 + core::magnitude(expected);
            close(Matrix(Matrix(M.selfadjointView<Eigen::Lower>())), expected, 1e-12 * size, "A'W A");
            Matrix H = Matrix::Zero(n, n);
            core::Rows strong, weak;
            Vector T, weights;
            assembly.split(cones, C, grams, strong, weak, T, weights, H);
            check(strong.size() + weak.size() == others + cones.zeros, "every row is strong or weak");
            Matrix both = H.selfadjointView<Eigen::Lower>();
            for (Index k = 0; k < strong.size(); ++k) {
                if (T(k) > 0.0) both += strong.Bt.col(k) * strong.Bt.col(k).transpose() / T(k);
            }
            close(both, expected, 1e-11 * size, "the weak part, and the strong one");
        }
    }
}

// minimize |x|^2 / 2 + q'x subject to (1, x) in the second-order cone: x = -q / |q|, multiplier |q| - 1
struct Ball {
    Matrix P = Matrix::Identity(3, 3);
    core::General general;
    core::Program program;
    Product product{{Kind::second_order, 4}};
    core::Grams grams;
    Vector solution, v;

    explicit Ball(const Vector& q) : solution(-q / q.norm()), v(4) {
        general.C = Matrix::Zero(3, 4);
        general.C.rightCols(3) = -Matrix::Identity(3, 3);
        general.E = Vector::Ones(4);
        program.n = 3, program.m = 4;
        program.P = &P;
        program.general = &general;
        program.q = q;
        program.side = Vector::Unit(4, 0);
        program.finite.assign(4, 1);
        grams.compute(product.cones, general.C);
        const double z = q.norm() - 1.0;
        v << z - 1.0, -(z + 1.0) * solution;
    }
};

void newton_at_the_solution() {
    Ball ball(Vector{{1.0, -2.0, 0.5}});
    core::ConicPoint point;
    point.x = ball.solution, point.v = ball.v;
    point.evaluate(ball.program, ball.product.cones, 0.0);
    close(point.size, 0.0, 1e-14, "F = 0");
    point.x += Vector{{1e-3, 2e-3, -1e-3}};
    point.v += Vector{{-1e-3, 1e-3, 0.0, 2e-3}};
    core::ConicNewton newton;
    Matrix L1, L2;
    double before = 0.0;
    for (int k = 0; k < 4; ++k) {
        point.evaluate(ball.program, ball.product.cones, 0.0);
        if (k > 0) check(point.size <= 10.0 * before * before + 1e-15, "quadratic convergence");
        before = point.size;
        check(newton.refactor(ball.program, ball.product.cones, ball.grams, L1, L2), "regular");
        newton.find_step(ball.program, ball.product.cones, point);
        newton.take_step(ball.program, ball.product.cones, 0.0, point);
    }
    close(point.x, ball.solution, 1e-14, "x");
    close(point.v, ball.v, 1e-14, "v");
}

void the_path_ends_at_the_solution() {
    Ball ball(Vector{{1.0, -2.0, 0.5}});
    core::ConicPoint point;
    point.x = Vector::Zero(3), point.v = Vector::Zero(4);
    core::ConicPath path;
    check(path.descend(ball.program, ball.product.cones, ball.grams, point, 1e-9), "from zero");
    close(point.x, ball.solution, 1e-7, "x(mu), mu small");
    close(point.s.dot(point.z), 2e-9, 1e-6, "s'z = 2 mu");
}

}  // namespace

int main(int count, char** arguments) {
    return run(count, arguments,
               {{"projections", projections},
                {"central_points", central_points},
                {"derivatives_are_differences", derivatives_are_differences},
                {"eigenvectors_and_weights", eigenvectors_and_weights},
                {"systems_of_the_path", systems_of_the_path},
                {"newton_at_the_solution", newton_at_the_solution},
                {"the_path_ends_at_the_solution", the_path_ends_at_the_solution}});
}
