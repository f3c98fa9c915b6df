// The terms of smooth.hpp: psi, its gradient, and its domain.
#pragma once

#include "data.hpp"

namespace core {

enum class Smooth : std::int64_t { relative = 0, exp = 1, log_sum = 2 };

// A term with entries first .. first + size of u.
struct SmoothTerm {
    Smooth kind;
    Index first = 0, size = 2;

    bool contains(ConstVectorRef u) const {
        if (kind == Smooth::relative) return u(first) > 0.0 && u(first + 1) > 0.0;
        return kind == Smooth::log_sum || u(first + 1) > 0.0;
    }

    // How far from u along `step` the domain goes, at most 1; 1 - `kept` of the way to its boundary.
    double reach(ConstVectorRef u, ConstVectorRef step, double kept) const {
        double length = 1.0;
        for (Index k = kind == Smooth::exp ? 1 : 0; k < (kind == Smooth::log_sum ? 0 : 2); ++k) {
            const double at = u(first + k), by = step(first + k);
            if (at + by <= kept * at) length = std::min(length, (1.0 - kept) * at / -by);
        }
        return length;
    }

    // psi, and its gradient where it is wanted
    double value(ConstVectorRef u, double* gradient) const {
        if (kind == Smooth::log_sum) {
            const auto part = u.segment(first, size);
            const double largest = part.maxCoeff();
            const double sum = (part.array() - largest).exp().sum();
            const double psi = largest + std::log(sum);
            if (gradient != nullptr) {
                for (Index k = 0; k < size; ++k) gradient[k] = std::exp(u(first + k) - largest) / sum;
            }
            return psi;
        }
        const double one = u(first), two = u(first + 1);
        if (kind == Smooth::relative) {
            const double log = std::log(one) - std::log(two);
            if (gradient != nullptr) gradient[0] = log + 1.0, gradient[1] = -one / two;
            return one * log;
        }
        const double ratio = one / two, power = std::exp(ratio);
        if (gradient != nullptr) gradient[0] = power, gradient[1] = power * (1.0 - ratio);
        return two * power;
    }
};

struct SmoothCall {
    Call data;
    std::vector<SmoothTerm> terms;
    Index tails = 0;     // entries of u
    Block C, d, lambda;  // (n x tails) by columns, (tails), (terms)
};

}  // namespace core
