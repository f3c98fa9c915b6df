// How far points are from solutions of programs of which only the nonzeros of P and A are known, on one pattern for the batch.
//
//     r_x = -(Px + q + A'z),     s = 0 on rows that hold,  max(b - Ax, 0) on the others at mu = 0,  mu / z else,     r_z = b - Ax - s
//
// and s as it is given on the rows of cones that are no orthants.  residuals.hpp has the measures, primal, dual, gap, and net; the
// floor of the terms is 1e-5 of the largest entry of a row, and of the objective.  The rows of such a cone share the largest of
// their terms, as in conic_certify.hpp.  dcl/program/reduction/measure.py is the Python face.
#pragma once

#include "pool.hpp"
#include "residuals.hpp"

namespace core {

// Nonzero k of a matrix stands at (row[k], column[k]); instance i has its values at data + i * stride.
struct Nonzeros {
    const std::int64_t* row = nullptr;
    const std::int64_t* column = nullptr;
    Index count = 0;
    const double* data = nullptr;
    Index stride = 0;
};

// Numbers of instance i at data + i * stride.
template <class T>
struct Strided {
    T* data = nullptr;
    Index stride = 0;

    T* at(Index i) const { return data + i * stride; }
};

// q, b (B or 1, .), x, z; holds: 1 for a row that holds with equality; mu: no data for 0.  cone (m): negative on rows of
// orthants, the same number on the rows of one other cone, which stand side by side; no data: there is none.  slack: (B, m), read
// on these rows; no data: what Ax + s = b says.  r_x (B, n), r_z, s (B, m), residuals (B, 4), value (B): 1/2 x'Px + q'x.
struct Given {
    Index batch = 0, n = 0, m = 0;
    Nonzeros P, A;
    Strided<const double> q, b, x, z, mu, slack;
    const std::int64_t* cone = nullptr;
    Strided<const std::uint8_t> holds;
    Strided<double> r_x, r_z, s, residuals, value;
};

struct GivenWorker {
    Vector Px, Px_sizes, ATz, ATz_sizes, Ax, Ax_sizes, row_sizes;

    void measure(const Given& t, Index i) {
        const VectorView x(t.x.at(i), t.n), z(t.z.at(i), t.m), q(t.q.at(i), t.n), b(t.b.at(i), t.m);
        double objective = magnitude(q);
        products(t, i, x, z, objective);
        if (!(objective > 0.0)) objective = 1.0;
        Eigen::Map<Vector> r_x(t.r_x.at(i), t.n), r_z(t.r_z.at(i), t.m), s(t.s.at(i), t.m);
        r_x = -(Px + q + ATz);
        const double dual =
            largest(r_x.array().abs() / (floor_of_terms * objective + Px_sizes.array() + q.array().abs() + ATz_sizes.array()));
        double primal = 0.0, missed = 0.0, held = 0.0, slope = (Px + q).dot(x), terms = (Px_sizes + q.cwiseAbs()).dot(x.cwiseAbs());
        const std::uint8_t* const holds = t.holds.at(i);
        for (Index first = 0, end = 0; first < t.m; first = end) {
            end = cone_end(t, first);
            double error = 0.0, size = 0.0, unit = 0.0;
            for (Index k = first; k < end; ++k) {
                const double slack = b(k) - Ax(k), side = std::abs(b(k));
                s(k) = is_curved(t, k) ? (t.slack.data != nullptr ? t.slack.at(i)[k] : slack)
                       : holds[k] != 0 ? 0.0
                                       : (t.mu.data != nullptr ? *t.mu.at(i) / z(k) : std::max(slack, 0.0));
                r_z(k) = slack - s(k);
                error = larger(error, std::abs(r_z(k)));
                size = larger(size, Ax_sizes(k) + std::abs(s(k)) + side);
                unit = larger(unit, row_sizes(k));
                slope += (b(k) - s(k)) * z(k);
                terms += std::abs(b(k) * z(k));
            }
            if (!(unit > 0.0)) unit = 1.0;
            primal = larger(primal, error / (floor_of_terms * unit + size));
            missed = larger(missed, error / unit);
            for (Index k = first; k < end; ++k) {
                if (s(k) == 0.0) held = std::max({held, std::abs(Ax(k)) / unit, std::abs(b(k)) / unit});
            }
        }
        const double net_dual = magnitude(r_x) / (objective + std::max({magnitude(Px), magnitude(q), magnitude(ATz)}));
        double* const out = t.residuals.at(i);
        out[0] = primal;
        out[1] = dual;
        out[2] = std::abs(slope) / (floor_of_terms * objective + terms);
        out[3] = larger(net_dual, missed / (1.0 + held));
        *t.value.at(i) = (0.5 * Px + q).dot(x);
    }

private:
    static bool is_curved(const Given& t, Index row) { return t.cone != nullptr && t.cone[row] >= 0; }

    // The row after the last one of the cone of `first`, which is alone in an orthant.
    static Index cone_end(const Given& t, Index first) {
        Index end = first + 1;
        if (is_curved(t, first)) {
            while (end < t.m && t.cone[end] == t.cone[first]) ++end;
        }
        return end;
    }

    // the larger one, NaN if one of them is
    static double larger(double so_far, double r) { return r > so_far || r != r ? r : so_far; }

    template <class Derived>
    static double largest(const Eigen::ArrayBase<Derived>& t) {
        double out = 0.0;
        for (Index k = 0; k < t.size(); ++k) out = larger(out, t(k));
        return out;
    }

    void products(const Given& t, Index i, const VectorView& x, const VectorView& z, double& objective) {
        Px.setZero(t.n), Px_sizes.setZero(t.n), ATz.setZero(t.n), ATz_sizes.setZero(t.n);
        Ax.setZero(t.m), Ax_sizes.setZero(t.m), row_sizes.setZero(t.m);
        const double* value = t.P.data + i * t.P.stride;
        for (Index k = 0; k < t.P.count; ++k) {
            const double term = value[k] * x(t.P.column[k]);
            Px(t.P.row[k]) += term;
            Px_sizes(t.P.row[k]) += std::abs(term);
            objective = larger(objective, std::abs(value[k]));
        }
        value = t.A.data + i * t.A.stride;
        for (Index k = 0; k < t.A.count; ++k) {
            const Index row = t.A.row[k], column = t.A.column[k];
            const double term = value[k] * x(column), back = value[k] * z(row);
            Ax(row) += term;
            Ax_sizes(row) += std::abs(term);
            ATz(column) += back;
            ATz_sizes(column) += std::abs(back);
            row_sizes(row) = larger(row_sizes(row), std::abs(value[k]));
        }
    }
};

inline void measure(const Given& given, int threads) {
    Pool::run(given.batch, threads, [&](Index i, int) {
        thread_local GivenWorker worker;
        worker.measure(given, i);
    });
}

}  // namespace core
