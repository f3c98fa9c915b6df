// What depends on data that the whole batch shares, made once per call: units, the factor of P, the elimination.
#pragma once

#include "elimination.hpp"

namespace core {

// Eigenvalues of P above -this * n * |P| are zero up to the rounding of float64 (dcl/program/convexity.py, which has the word on
// P with smaller ones: those within the rounding of the caller's numbers).
inline constexpr double psd_rounding = 10.0 * std::numeric_limits<double>::epsilon();

// P (scaled) as its Cholesky factor L where it is definite; else, is it positive semidefinite?
struct Definiteness {
    bool is_definite = false, is_semidefinite = false;

    void decide(const Matrix& P, Matrix& L, Matrix& scratch) {
        const double size = magnitude(P.diagonal());
        L.resize(P.rows(), P.cols());
        L.triangularView<Eigen::Lower>() = P;
        is_semidefinite = is_definite = size > 0.0 && cholesky(L, definite * size);
        if (is_definite) return;
        scratch = P;
        const double shift = psd_rounding * static_cast<double>(P.rows()) * size;
        scratch.diagonal().array() += shift + std::numeric_limits<double>::min();
        is_semidefinite = cholesky(scratch);
    }
};

struct Shared {
    bool has_P = false, has_general = false, has_elimination = false;
    Curvature curvature;
    Matrix P, L;
    Definiteness kind;
    General general;
    Elimination elimination;
    double c = 1.0;

    void prepare(const Call& call) {
        if (call.batch <= 1) return;  // one instance has the buffers of its worker
        if (call.P.shared()) share_P(call);
        has_general = call.A.shared() && call.G.shared();
        if (has_general) general.load(call, 0);
        if (has_P && has_general && kind.is_definite && general.is_finite) {
            has_elimination = elimination.compute(L, general.C, call.p, call.lower() + call.upper() > 0);
        }
    }

    // P in one unit for all, as in dcl/program/scaling.py, unless the objectives are too different.
    void share_P(const Call& call) {
        curvature.load(call, 0);
        double largest = curvature.size, smallest = infinity;
        bool is_finite = curvature.is_finite;
        Vector q(call.n);
        for (Index i = 0; i < (call.q.shared() ? 1 : call.batch); ++i) {
            read(call, call.q, i, q.head(call.n));
            const double size = std::max(curvature.size, magnitude(q));
            largest = std::max(largest, size);
            smallest = std::min(smallest, size);
            is_finite = is_finite && all_finite(q);
        }
        has_P = is_finite && largest <= same_size * smallest;
        if (!has_P) return;
        c = unit(largest);
        P = c * curvature.P;
        Matrix scratch;
        kind.decide(P, L, scratch);
    }
};

}  // namespace core
