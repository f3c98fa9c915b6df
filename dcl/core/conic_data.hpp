// Cone programs of a batch, and what it shares.
//
//     minimize 1/2 x'Px + q'x   subject to   Ax + s = b,  s in K           dual z in K*,   Px + q + A'z = 0
//
// In the letters of data.hpp the zero rows are A, b and all others G, h; no side is infinite and no bounds are kept apart.
// Units as there, but that E is constant on each cone that is no orthant (dcl/program/scaling.py).
#pragma once

#include "cones/grams.hpp"
#include "shared.hpp"

namespace core {

struct ConicCall {
    Call data;
    Cones cones;
};

// [A; G] of one instance or of all, scaled.
inline void load_rows(const ConicCall& call, Index i, General& out) {
    const Index n = call.data.n, p = call.data.p, m = call.data.m;
    out.C.resize(n, p + m);
    out.E.resize(p + m);
    if (p > 0) read(call.data, call.data.A, i, out.C.leftCols(p));
    if (m > 0) read(call.data, call.data.G, i, out.C.rightCols(m));
    out.is_finite = all_finite(out.C);
    for (Index k = 0; k < p + m; ++k) out.E(k) = magnitude(out.C.col(k));
    call.cones.each([&](const auto& cone) {
        auto sizes = out.E.segment(cone.first, cone.size);
        sizes.setConstant(magnitude(sizes));
    });
    out.E = out.E.unaryExpr(&unit);
    for (Index k = 0; k < p + m; ++k) {
        if (out.E(k) != 1.0) out.C.col(k) *= out.E(k);
    }
}

struct ConicShared {
    Shared objective;
    General general;
    Grams grams;
    bool has_general = false;

    void prepare(const ConicCall& call) {
        if (call.data.batch <= 1) return;
        if (call.data.P.shared()) objective.share_P(call.data);
        has_general = call.data.A.shared() && call.data.G.shared();
        if (!has_general) return;
        load_rows(call, 0, general);
        if (general.is_finite) grams.compute(call.cones, general.C);
    }
};

}  // namespace core
