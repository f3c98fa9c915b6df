// Newton's method on F with the factor that the derivative reuses, at mu = 0 or on the path.
//
// In the coordinates Q'y of the cones, with B = Q'A, T = (1 - d) / d, and without the rows where d = 0 (factor.hpp):
//
//     [P  B'] (dx  )   (-f_1   )
//     [B  -T] (dz~ ) = (-Q'f_2 ),      dv~ = dz~ / d on strong rows,   (B dx + Q'f_2) / (1 - d) on the others
#pragma once

#include "cones/assembly.hpp"
#include "conic_point.hpp"
#include "factor.hpp"

namespace core {

struct ConicNewton {
    Assembly assembly;
    Factor factor;
    double moved = infinity, change = infinity;  // by the step that was found: relative to x and v; the largest of dv

    // The factor at the point; L1 and L2 are where it is kept.
    bool refactor(const Program& program, const Cones& cones, const Grams& grams, Matrix& L1, Matrix& L2) {
        const Index n = program.n;
        factor.set(program.P->data(), n, 1.0);
        L1 = *program.P;
        assembly.split(cones, program.C(), grams, factor.strong, factor.weak, factor.T, factor.W, L1);
        const Index k = factor.strong.size();
        L2.resize(k, k);
        if (!factor.condense(L1, L2, scratch_)) return false;
        factor.set_factors(L1.data(), L2.data(), false);
        return true;
    }

    // Newton's step from the point at which the factor was made, which is left as it is.
    void find_step(const Program& program, const Cones& cones, const ConicPoint& point) {
        const Index n = program.n, k = factor.strong.size(), w = factor.weak.size();
        r_1_ = -point.f_1;
        f_2_ = point.f_2;
        cones.to_eigen(f_2_);
        r_2_.resize(k + w);
        for (Index i = 0; i < k; ++i) r_2_(i) = -f_2_(assembly.strong[i]);
        for (Index i = 0; i < w; ++i) r_2_(k + i) = -f_2_(assembly.weak[i]);
        a_.resize(n), y_.resize(k + w);
        factor.once(r_1_, r_2_, a_, y_);
        dv_ = point.f_2;
        if (dv_.size() > 0) dv_.noalias() += program.C().transpose() * a_;
        cones.to_eigen(dv_);
        for (Index i = 0; i < dv_.size(); ++i) {
            if (!(assembly.w(i) > Assembly::most_weak)) dv_(i) *= 1.0 + assembly.w(i);
        }
        for (Index i = 0; i < k; ++i) dv_(assembly.strong[i]) = (1.0 + factor.T(i)) * y_(i);
        change = magnitude(dv_);
        cones.from_eigen(dv_);
        moved = std::max(magnitude(a_) / (1.0 + magnitude(point.x)), magnitude(dv_) / (1.0 + magnitude(point.v)));
    }

    void take_step(const Program& program, Cones& cones, double mu, ConicPoint& point) const {
        point.x += a_;
        point.v += dv_;
        point.evaluate(program, cones, mu);
    }

private:
    Matrix scratch_;
    Vector r_1_, r_2_, f_2_, a_, y_, dv_;
};

}  // namespace core
