// Where the solver starts: the active set that a point of the caller implies, the rows with z > s.
#pragma once

#include "data.hpp"

namespace core {

// Its blocks; no x: nowhere.
struct StartBlocks {
    Block x, z, z_lb, z_ub;
};

struct Start {
    Vector x, z, s;  // in the program's units; z, s of the stacked rows
    bool is_there = false;

    void read_from(const Call& call, const StartBlocks& from, Index i, const Program& program) {
        is_there = from.x.present();
        if (!is_there) return;
        x.resize(call.n);
        z.setZero(program.rows());
        s.setZero(program.rows());
        read(call, from.x, i, x.head(call.n));
        if (call.m > 0) read(call, from.z, i, z.segment(call.p, call.m));
        if (call.lower() > 0) read(call, from.z_lb, i, z.segment(program.first_lower(), call.n));
        if (call.upper() > 0) read(call, from.z_ub, i, z.segment(program.first_upper(), call.n));
        program.times(x, s);
        for (Index row = program.p; row < program.rows(); ++row) {
            s(row) = program.side(row) - s(row);
            z(row) *= program.c / program.row_unit(row);
            if (!program.binds(row)) z(row) = s(row) = 0.0;
        }
        is_there = all_finite(x) && all_finite(s) && all_finite(z);
    }

    bool is_active(Index row) const { return is_there && z(row) > 0.0 && z(row) > s(row); }
};

}  // namespace core
