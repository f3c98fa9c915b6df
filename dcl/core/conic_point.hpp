// A point (x, v) of a cone program, and F there:
//
//     z = Pi_mu*(v),  s = z - v,      f_1 = Px + q + A'z,   f_2 = Ax + s - b
#pragma once

#include "cones/product.hpp"
#include "data.hpp"

namespace core {

struct ConicPoint {
    Vector x, v, z, s, f_1, f_2;
    double size = infinity;  // |F|

    void evaluate(const Program& program, Cones& cones, double mu) {
        z.resize(v.size());
        cones.evaluate(v, mu, z);
        s = z - v;
        f_1 = program.q;
        if (!program.is_zero) f_1.noalias() += program.P->selfadjointView<Eigen::Lower>() * x;
        f_2 = s - program.side;
        if (v.size() > 0) {
            f_1.noalias() += program.C() * z;
            f_2.noalias() += program.C().transpose() * x;
        }
        size = std::sqrt(f_1.squaredNorm() + f_2.squaredNorm());
    }
};

}  // namespace core
