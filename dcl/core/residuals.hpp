// How far a point is from a solution, as dcl/point/point.py and dcl/point/ties.py measure it, in the program's units.
//
//     primal  |Ax + s - b|_i / (floor + |A||x| + |s| + |b|)_i      dual  |Px + q + A'z|_j / (floor + |P||x| + |q| + |A|'|z|)_j
//     gap     |x'Px + q'x + b'z - mu nu| / (floor + |x|'|P||x| + |q|'|x| + |b|'|z|)
//
// A, b, z, s: of the stacked rows.  Relative to terms that cancel, these excuse anything where |x| is huge; hence also, net:
//
//     |Px + q + A'z| / (1 + max(|Px|, |q|, |A'z|))     |Ax + s - b| / (1 + max(|Ax|, |s|, |b|))       in the max-norm
#pragma once

#include "data.hpp"

namespace core {

inline constexpr double floor_of_terms = 1e-5;

struct Residuals {
    double primal = infinity, dual = infinity, gap = infinity, net_primal = infinity, net_dual = infinity;
    Vector Px, ATz, Ax;                       // Ax: of all stacked rows
    Vector Px_sizes, ATz_sizes, Ax_sizes;     // |P||x|, |A|'|z|, |A||x|

    // NaN counts as infinity
    double strict() const {
        const double largest = std::max({primal, dual, gap});
        return primal == primal && dual == dual && gap == gap ? largest : infinity;
    }
    double net() const {
        return net_primal == net_primal && net_dual == net_dual ? std::max(net_primal, net_dual) : infinity;
    }
    double worst() const { return std::max(strict(), net()); }

    // x (n); z, s of the stacked rows, both zero where a row is not finite.  `products` of x and z come first.
    // smoothing: mu times the number of inequality rows that are finite.
    void measure(const Program& program, ConstVectorRef x, ConstVectorRef z, ConstVectorRef s, double smoothing = 0.0) {
        const Vector& side = program.side;
        const Index rows = program.rows();
        double worst_dual = 0.0, largest_dual = 0.0;
        for (Index j = 0; j < program.n; ++j) {
            const double r = std::abs(Px(j) + program.q(j) + ATz(j));
            const double terms = floor_of_terms + Px_sizes(j) + std::abs(program.q(j)) + ATz_sizes(j);
            worst_dual = larger(worst_dual, r / terms);
            largest_dual = larger(largest_dual, r);
        }
        double worst_primal = 0.0, largest_primal = 0.0, terms_primal = 0.0, slope = 0.0, slope_sizes = 0.0;
        for (Index i = 0; i < rows; ++i) {
            if (!program.binds(i)) continue;
            const double r = std::abs(Ax(i) + s(i) - side(i));
            worst_primal = larger(worst_primal, r / (floor_of_terms + Ax_sizes(i) + std::abs(s(i)) + std::abs(side(i))));
            largest_primal = larger(largest_primal, r);
            // what is far from its side excuses nothing of the others
            if (s(i) == 0.0 || z(i) != 0.0) terms_primal = std::max({terms_primal, std::abs(Ax(i)), std::abs(side(i))});
            slope += side(i) * z(i);
            slope_sizes += std::abs(side(i) * z(i));
        }
        primal = worst_primal;
        dual = worst_dual;
        const double sizes = Px_sizes.dot(x.cwiseAbs()) + program.q.cwiseAbs().dot(x.cwiseAbs()) + slope_sizes;
        gap = std::abs(Px.dot(x) + program.q.dot(x) + slope - smoothing) / (floor_of_terms + sizes);
        net_dual = largest_dual / (1.0 + std::max({magnitude(Px), magnitude(program.q), magnitude(ATz)}));
        net_primal = largest_primal / (1.0 + terms_primal);
    }

    // Px, Ax, A'z and their sizes.
    void products(const Program& program, ConstVectorRef x, ConstVectorRef z) {
        const Index n = program.n, general = program.p + program.m;
        Px.setZero(n);
        Px_sizes.setZero(n);
        ATz.setZero(n);
        ATz_sizes.setZero(n);
        Ax.setZero(program.rows());
        Ax_sizes.setZero(program.rows());
        if (!program.is_zero) {
            for (Index j = 0; j < n; ++j) add(program.P->data() + j * n, x(j), n, Px, Px_sizes);
        }
        const Matrix& C = program.C();
        for (Index i = 0; i < general; ++i) {
            if (!program.binds(i)) continue;
            const auto terms = C.col(i).array() * x.array();
            Ax(i) = terms.sum();
            Ax_sizes(i) = terms.abs().sum();
            if (z(i) != 0.0) add(C.data() + i * n, z(i), n, ATz, ATz_sizes);
        }
        for (Index i = general; i < program.rows(); ++i) {
            if (!program.binds(i)) continue;
            const Index j = program.variable(i);
            const double sign = program.is_lower(i) ? -1.0 : 1.0;
            Ax(i) = sign * x(j);
            Ax_sizes(i) = std::abs(x(j));
            ATz(j) += sign * z(i);
            ATz_sizes(j) += std::abs(z(i));
        }
    }

private:
    // the larger one, NaN if r is
    static double larger(double so_far, double r) { return r > so_far || r != r ? r : so_far; }

    static void add(const double* column, double factor, Index n, Vector& sum, Vector& sizes) {
        const VectorView c(column, n);
        sum += factor * c;
        sizes += std::abs(factor) * c.cwiseAbs();
    }
};

}  // namespace core
