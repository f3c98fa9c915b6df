// Sparse LDL' without pivoting: analyzed once for a pattern, factored for every instance of a batch.
//
//     C S C' = L D L',    C a permutation (approximate minimum degree), L unit lower triangular, D diagonal
//
// S must be quasi-definite, [[H, B'], [B, -T]] with H > 0 and T > 0: then L and D exist for every permutation
// (Vanderbei 1995).  The caller sees to it with a shift of the diagonal, whose signs are those of D; a pivot that rounding
// has turned around is replaced by its shift.  Row k of L solves L_k D_k l = S_k (Davis 2005, up-looking); entries of S that are
// zero in an instance cost next to nothing, so that rows which are active only sometimes stay in the pattern.
#pragma once

#include <memory>

#include "types.hpp"

namespace core {

// The pattern: entries (row, column) of one triangle of S or both, each pair of places once; equal places add up.
class LdlAnalysis {
public:
    LdlAnalysis(Index order, Index entries, const std::int64_t* rows, const std::int64_t* cols);

    const Index order, entries;

    Index fill() const { return row_start_.back(); }
    // Multiplications of one factorization.
    double work() const { return work_; }

    // y <- S x for x, y (order, columns), row-major; and the largest absolute value in each row of S.
    void multiply(const double* values, const double* x, double* y, Index columns) const;
    void row_sizes(const double* values, double* sizes) const;

    // L's values, 1 / D; workspace: order + slots doubles, zero before and after, and order indices.  Returns how many pivots
    // had the other sign than their shift: none exactly if S has as many eigenvalues of each sign as the shift (Sylvester).
    Index factor(const double* values, const double* shift, double* L, double* inverse, double* work, Index* next) const;
    Index workspace() const { return order + slots_; }
    // x <- S^-1 x for x (order, columns), row-major, with a workspace of the same size.
    void solve(const double* L, const double* inverse, double* x, Index columns, double* work) const;

private:
    std::vector<int> rows_, cols_;         // the entries as given
    std::vector<int> old_;                 // old_[k]: the row of S that is row k of C S C'
    std::vector<int> slot_;                // entry -> its place in the upper triangle of C S C', by columns, without the diagonal;
                                           // from off-diagonal slots on: the diagonal
    std::vector<int> column_start_, upper_;
    std::vector<Index> row_start_, start_; // rows of L, and columns of L
    std::vector<int> row_, column_;        // columns of the entries of each row, and rows of those of each column, increasing
    Index slots_ = 0;
    double work_ = 0.0;

    void permute();
    void analyze();
};

// The factors of a batch.
struct LdlFactor {
    LdlFactor(std::shared_ptr<const LdlAnalysis> of, Index instances);

    std::shared_ptr<const LdlAnalysis> analysis;
    Index batch;
    std::unique_ptr<double[]> L, inverse;
    std::vector<std::int64_t> turned;  // (batch,): what `LdlAnalysis::factor` returned
};

// values (batch or 1, entries), shift (order,), one for all.
std::unique_ptr<LdlFactor> factor(std::shared_ptr<const LdlAnalysis> analysis, Index batch, const double* values, Index stride,
                                  const double* shift, int threads);
// x (batch, order, columns), in place.
void solve(const LdlFactor& factor, double* x, Index columns, int threads);
void multiply(const LdlAnalysis& analysis, Index batch, const double* values, Index stride, const double* x, double* y,
              Index columns, int threads);

}  // namespace core
