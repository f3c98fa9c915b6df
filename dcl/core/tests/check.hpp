// What the tests of the headers share: named cases, checks with a message, random data that are the same everywhere.
//
// A program lists its cases; without arguments all of them run, `--list` names them, and a name runs one.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../types.hpp"

namespace test {

using core::Index;
using core::Matrix;
using core::Vector;

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline void check(bool holds, const std::string& what) {
    if (!holds) throw Failure(what);
}

// |found - expected| <= tolerance in the max-norm, of the same shape; NaN is no number
template <class A, class B>
void close(const A& found, const B& expected, double tolerance, const std::string& what) {
    check(found.rows() == expected.rows() && found.cols() == expected.cols(), what + ": other shapes");
    if (found.size() == 0) return;
    const double error = (found - expected).array().abs().maxCoeff();
    if (error <= tolerance) return;
    std::ostringstream text;
    text << what << ": error " << error << ", allowed " << tolerance;
    throw Failure(text.str());
}
inline void close(double found, double expected, double tolerance, const std::string& what) {
    close(Vector::Constant(1, found), Vector::Constant(1, expected), tolerance, what);
}

struct Random {
    std::mt19937_64 generator;

    explicit Random(unsigned seed) : generator(seed) {}
    // in (-1, 1), from the bits themselves: distributions of the library differ
    double number() { return static_cast<double>(generator() >> 11) * 0x1p-52 - 1.0; }
    Vector vector(Index n) {
        return Vector::NullaryExpr(n, [this](Index) { return number(); });
    }
    Matrix matrix(Index r, Index c) {
        return Matrix::NullaryExpr(r, c, [this](Index, Index) { return number(); });
    }
    // positive definite, eigenvalues about 1
    Matrix definite(Index n) {
        const Matrix L = matrix(n, n);
        Matrix out = Matrix::Identity(n, n);
        if (n > 0) out += L * L.transpose() / static_cast<double>(n);
        return out;
    }
};

using Case = std::pair<const char*, void (*)()>;

inline int run(int count, char** arguments, const std::vector<Case>& cases) {
    const char* const wanted = count > 1 ? arguments[1] : "";
    int failed = 0, ran = 0;
    for (const auto& [name, work] : cases) {
        if (std::strcmp(wanted, "--list") == 0) {
            std::printf("%s\n", name);
            ++ran;
            continue;
        }
        if (*wanted != '\0' && std::strcmp(wanted, name) != 0) continue;
        ++ran;
        try {
            work();
        } catch (const Failure& failure) {
            ++failed;
            std::printf("%s: %s\n", name, failure.what());
        }
    }
    if (ran == 0) std::printf("no case %s\n", wanted);
    return failed > 0 || ran == 0 ? 1 : 0;
}

}  // namespace test
