// What is made once of the rows A of a program, for all systems that are formed with them.
#pragma once

#include "product.hpp"

namespace core {

// What is made once of the rows: A'A of those second-order cones that are large enough for it to pay, and which variables a row
// of the orthant, or a cone of R^3, sees, where these are few.
struct Grams {
    static constexpr Index smallest = 8;
    std::vector<Matrix> of;  // by second-order cone, empty for small ones
    std::vector<Integers> rows, threes;  // threes: in the order of Cones::each_three
    std::vector<char> few_in_row, few_in_three;

    void compute(const Cones& cones, const Matrix& C) {
        of.resize(cones.second_order.size());
        for (std::size_t k = 0; k < of.size(); ++k) {
            const SecondOrder& cone = cones.second_order[k];
            const Index n = cone.size < smallest ? 0 : C.rows();
            of[k].setZero(n, n);
            if (n == 0) continue;
            of[k].selfadjointView<Eigen::Lower>().rankUpdate(C.middleCols(cone.first, cone.size));
        }
        rows.resize(static_cast<std::size_t>(cones.orthant));
        few_in_row.resize(rows.size());
        for (Index i = cones.zeros; i < cones.orthant; ++i) few_in_row[i] = list(C.col(i), rows[i]);
        threes.clear();
        few_in_three.clear();
        cones.each_three([&](const auto& cone) {
            threes.emplace_back();
            few_in_three.push_back(list(C.middleCols(cone.first, cone.size), threes.back()));
        });
    }

private:
    // The rows of A' with entries; are they few?
    template <class Columns>
    static char list(const Columns& A, Integers& seen) {
        seen.clear();
        for (Index j = 0; j < A.rows(); ++j) {
            if ((A.row(j).array() != 0.0).any()) seen.push_back(j);
        }
        return count(seen) <= A.rows() / 4 ? 1 : 0;
    }
};

}  // namespace core
