// Soft rows: rows of G that may be violated at a cost, and the cell of the solution.
//
//     minimize 1/2 x'Px + q'x + sum_i cap_i max(G_i x - h_i, 0)   subject to   Ax = b, the other rows of G, bounds
//
// The multiplier of a soft row is between 0 and its cap.  The rows G_i x = h_i cut the space into cells.  In the one that has the
// solution each soft row is a usual one, or, where it is `beyond` its side, one with the other sign whose cost is part of q:
//
//     -G_i x <= -h_i,   q + cap_i G_i,   multiplier cap_i - z_i
//
// So the cell's program is one for solver.hpp, which certifies its solution and keeps its factor; that is the solution if no
// multiplier in it is above its cap.  Here an interior point finds the cell, and a point to start from: P need not be definite.
#pragma once

#include "batch.hpp"

namespace core {

// x (B, n), multipliers of the rows of G and of the bounds of the cell's program, beyond (B, m): 1 for yes.  float64.
struct CellOut {
    Out x, z, z_lb, z_ub;
    std::uint8_t* beyond = nullptr;
};

struct SoftWorker {
    void find(const Call& call, const Block& cap, const General* shared, Index i, const CellOut& to) {
        load(call, cap, shared, i);
        if (is_fit()) {
            // whether z > s says nothing of a row until mu = s z is far below the square of its cap
            const double smallest = std::min(program_.cap.minCoeff(), 1.0), enough = decided * smallest * smallest;
            const auto settles = [&](const Vector&, const Vector&, const Vector&, const Vector&) { return interior_.mu < enough; };
            interior_.solve(program_, settles);
        } else {
            interior_.x.setZero(call.n);
            interior_.z.setZero(program_.rows());
            interior_.s.setOnes(program_.rows());
            interior_.t.setZero(program_.rows());
            interior_.u.setOnes(program_.rows());
        }
        write(call, i, to);
    }

private:
    static constexpr double decided = 1e-4;
    Program program_;
    Curvature curvature_;
    Matrix P_;
    General general_;
    InteriorPoint interior_;
    Vector z_;

    void load(const Call& call, const Block& cap, const General* shared, Index i) {
        program_.load_vectors(call, i);
        if (shared == nullptr) general_.load(call, i);
        program_.general = shared == nullptr ? &general_ : shared;
        curvature_.load(call, i);
        program_.scale(unit(std::max(curvature_.size, magnitude(program_.q))));
        P_ = program_.c * curvature_.P;
        program_.P = &P_;
        program_.is_zero = curvature_.is_zero;
        program_.cap.setConstant(program_.rows(), infinity);
        read(call, cap, i, program_.cap.segment(call.p, call.m));
        for (Index row = call.p; row < call.general(); ++row) program_.cap(row) *= program_.c / program_.row_unit(row);
    }

    // Is every number one, and every cap positive?
    bool is_fit() const {
        return program_.is_finite && program_.general->is_finite && curvature_.is_finite && program_.cap.minCoeff() > 0.0;
    }

    void write(const Call& call, Index i, const CellOut& to) {
        const Index p = call.p, m = call.m;
        z_ = interior_.z;
        for (Index k = 0; k < m; ++k) {
            const Index row = p + k;
            const bool beyond = interior_.t(row) > interior_.s(row);
            to.beyond[i * m + k] = beyond ? 1 : 0;
            // where the row holds in the cell's program, and where it does not
            if (beyond) z_(row) = interior_.u(row) > interior_.t(row) ? interior_.u(row) : 0.0;
            if (!beyond && !(z_(row) > interior_.s(row))) z_(row) = 0.0;
            z_(row) *= program_.row_unit(row) / program_.c;
        }
        to.x.write(i, interior_.x);
        to.z.write(i, z_.segment(p, m));
        to.z_lb.write(i, z_.segment(program_.first_lower(), program_.lower) / program_.c);
        to.z_ub.write(i, z_.segment(program_.first_upper(), program_.upper) / program_.c);
    }
};

// cap: (B or 1, m) float64, infinite where a row is not soft.
inline void find_cells(const Call& call, const Block& cap, const CellOut& to, int threads) {
    General general;
    const bool is_shared = call.batch > 1 && call.A.shared() && call.G.shared();
    if (is_shared) general.load(call, 0);
    Pool::run(call.batch, threads, [&](Index i, int) {
        thread_local SoftWorker worker;
        worker.find(call, cap, is_shared ? &general : nullptr, i, to);
    });
}

}  // namespace core
