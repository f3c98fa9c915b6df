// What comes out of an instance, beside its point.
#pragma once

#include "certify.hpp"

namespace core {

// What an instance leaves for its derivative, in the units of the program.
struct Record {
    Status status = Status::not_solved;
    double c = 1.0, condition = infinity;
    bool is_symmetric = true, shares_L1 = false;
    Vector E, x, z;
    Matrix L1, L2;
    Vector T, W, G;
    Integers strong, weak;
};

struct Outcome {
    Status status = Status::not_solved;
    std::int32_t iterations = 0;
    double condition = infinity, margin = infinity;
};

}  // namespace core
