#include "ldl.hpp"

#include <algorithm>
#include <numeric>

#include <Eigen/OrderingMethods>
#include <Eigen/SparseCore>

#include "pool.hpp"

namespace core {

LdlAnalysis::LdlAnalysis(Index order, Index entries, const std::int64_t* rows, const std::int64_t* cols)
    : order(order), entries(entries), rows_(rows, rows + entries), cols_(cols, cols + entries) {
    permute();
    analyze();
}

// The permutation, and the upper triangle of C S C' by columns with the entries that make it up.
void LdlAnalysis::permute() {
    const auto n = static_cast<int>(order);
    std::vector<Eigen::Triplet<char, int>> places;
    places.reserve(static_cast<std::size_t>(2 * entries + order));
    for (std::size_t e = 0; e < rows_.size(); ++e) {
        places.emplace_back(rows_[e], cols_[e], 1);
        places.emplace_back(cols_[e], rows_[e], 1);
    }
    for (int i = 0; i < n; ++i) places.emplace_back(i, i, 1);
    Eigen::SparseMatrix<char, Eigen::ColMajor, int> pattern(n, n);
    pattern.setFromTriplets(places.begin(), places.end(), [](char a, char) { return a; });
    Eigen::PermutationMatrix<Eigen::Dynamic, Eigen::Dynamic, int> permutation;
    Eigen::AMDOrdering<int>()(pattern.selfadjointView<Eigen::Upper>(), permutation);
    old_.assign(permutation.indices().data(), permutation.indices().data() + n);
    std::vector<int> fresh(old_.size());
    for (int k = 0; k < n; ++k) fresh[static_cast<std::size_t>(old_[static_cast<std::size_t>(k)])] = k;

    // sorted by column, then row: two passes of counting
    std::vector<int> entry(rows_.size());
    std::iota(entry.begin(), entry.end(), 0);
    const auto place = [&](int e) {
        const int a = fresh[static_cast<std::size_t>(rows_[static_cast<std::size_t>(e)])];
        const int b = fresh[static_cast<std::size_t>(cols_[static_cast<std::size_t>(e)])];
        return std::make_pair(std::max(a, b), std::min(a, b));
    };
    std::vector<std::pair<int, int>> at(rows_.size());
    for (std::size_t e = 0; e < at.size(); ++e) at[e] = place(static_cast<int>(e));
    std::sort(entry.begin(), entry.end(),
              [&](int e, int f) { return at[static_cast<std::size_t>(e)] < at[static_cast<std::size_t>(f)]; });
    column_start_.assign(static_cast<std::size_t>(n) + 1, 0);
    slot_.assign(rows_.size(), 0);
    std::pair<int, int> last{-1, -1};
    for (const int e : entry) {
        const auto here = at[static_cast<std::size_t>(e)];
        if (here.first == here.second) continue;
        if (here != last) {
            upper_.push_back(here.second);
            ++column_start_[static_cast<std::size_t>(here.first) + 1];
        }
        slot_[static_cast<std::size_t>(e)] = static_cast<int>(upper_.size()) - 1;
        last = here;
    }
    std::partial_sum(column_start_.begin(), column_start_.end(), column_start_.begin());
    const int off = static_cast<int>(upper_.size());
    for (std::size_t e = 0; e < at.size(); ++e) {
        if (at[e].first == at[e].second) slot_[e] = off + at[e].first;
    }
    slots_ = off + order;
}

// The pattern of L: row k has the columns on the paths in the elimination tree from the entries of column k of S to k.
void LdlAnalysis::analyze() {
    const auto n = static_cast<std::size_t>(order);
    std::vector<int> parent(n, -1), mark(n, -1), count(n, 0);
    const auto paths = [&](int k, auto&& visit) {
        mark[static_cast<std::size_t>(k)] = k;
        for (int p = column_start_[static_cast<std::size_t>(k)]; p < column_start_[static_cast<std::size_t>(k) + 1]; ++p) {
            for (int i = upper_[static_cast<std::size_t>(p)]; mark[static_cast<std::size_t>(i)] != k;
                 i = parent[static_cast<std::size_t>(i)]) {
                if (parent[static_cast<std::size_t>(i)] < 0) parent[static_cast<std::size_t>(i)] = k;
                mark[static_cast<std::size_t>(i)] = k;
                visit(i);
            }
        }
    };
    row_start_.assign(n + 1, 0);
    for (int k = 0; k < static_cast<int>(n); ++k) {
        Index length = 0;
        paths(k, [&](int i) {
            ++count[static_cast<std::size_t>(i)];
            ++length;
        });
        row_start_[static_cast<std::size_t>(k) + 1] = row_start_[static_cast<std::size_t>(k)] + length;
    }
    start_.assign(n + 1, 0);
    for (std::size_t i = 0; i < n; ++i) {
        start_[i + 1] = start_[i] + count[i];
        work_ += static_cast<double>(count[i]) * (count[i] + 1) / 2;
    }
    std::fill(mark.begin(), mark.end(), -1);
    row_.resize(static_cast<std::size_t>(fill()));
    column_.resize(row_.size());
    std::vector<Index> next(start_.begin(), start_.end() - 1);
    for (int k = 0; k < static_cast<int>(n); ++k) {
        int* const first = row_.data() + row_start_[static_cast<std::size_t>(k)];
        int* last = first;
        paths(k, [&](int i) { *last++ = i; });
        std::sort(first, last);  // children before parents
        for (const int* i = first; i != last; ++i) column_[static_cast<std::size_t>(next[static_cast<std::size_t>(*i)]++)] = k;
    }
}

void LdlAnalysis::multiply(const double* values, const double* x, double* y, Index columns) const {
    std::fill(y, y + order * columns, 0.0);
    for (std::size_t e = 0; e < rows_.size(); ++e) {
        const Index i = rows_[e] * columns, j = cols_[e] * columns;
        const double v = values[e];
        for (Index c = 0; c < columns; ++c) y[i + c] += v * x[j + c];
        if (i != j) {
            for (Index c = 0; c < columns; ++c) y[j + c] += v * x[i + c];
        }
    }
}

void LdlAnalysis::row_sizes(const double* values, double* sizes) const {
    std::fill(sizes, sizes + order, 0.0);
    for (std::size_t e = 0; e < rows_.size(); ++e) {
        const double v = std::abs(values[e]);
        sizes[rows_[e]] = std::max(sizes[rows_[e]], v);
        sizes[cols_[e]] = std::max(sizes[cols_[e]], v);
    }
}

Index LdlAnalysis::factor(const double* values, const double* shift, double* L, double* inverse, double* work,
                          Index* next) const {
    double* const y = work;
    double* const S = work + order;
    std::fill(S, S + slots_, 0.0);
    for (std::size_t e = 0; e < slot_.size(); ++e) S[slot_[e]] += values[e];
    const double* const diagonal = S + upper_.size();
    std::copy(start_.begin(), start_.end() - 1, next);
    Index turned = 0;
    for (Index k = 0; k < order; ++k) {
        for (int p = column_start_[static_cast<std::size_t>(k)]; p < column_start_[static_cast<std::size_t>(k) + 1]; ++p) {
            y[upper_[static_cast<std::size_t>(p)]] = S[p];
        }
        const double own = shift[old_[static_cast<std::size_t>(k)]];
        double pivot = diagonal[k] + own;
        for (Index r = row_start_[static_cast<std::size_t>(k)]; r < row_start_[static_cast<std::size_t>(k) + 1]; ++r) {
            const int i = row_[static_cast<std::size_t>(r)];
            const Index end = next[i]++;
            const double t = y[i];
            if (t == 0.0) {
                L[end] = 0.0;
                continue;
            }
            y[i] = 0.0;
            for (Index p = start_[static_cast<std::size_t>(i)]; p < end; ++p) y[column_[static_cast<std::size_t>(p)]] -= L[p] * t;
            const double l = t * inverse[i];
            pivot -= l * t;
            L[end] = l;
        }
        const bool keeps = pivot * own > 0.0;
        turned += keeps ? 0 : 1;
        inverse[k] = 1.0 / (keeps ? pivot : own);
    }
    return turned;
}

namespace {

// columns 0: as many as `some` says at run time.
template <int columns>
void substitute(Index order, const Index* start, const int* row, const double* L, const double* inverse, double* y, Index some) {
    const Index width = columns == 0 ? some : columns;
    for (Index i = 0; i < order; ++i) {
        const double* const from = y + i * width;
        for (Index p = start[i]; p < start[i + 1]; ++p) {
            double* const to = y + row[p] * width;
            for (Index c = 0; c < width; ++c) to[c] -= L[p] * from[c];
        }
    }
    for (Index i = order - 1; i >= 0; --i) {
        double* const to = y + i * width;
        for (Index c = 0; c < width; ++c) to[c] *= inverse[i];
        for (Index p = start[i]; p < start[i + 1]; ++p) {
            const double* const from = y + row[p] * width;
            for (Index c = 0; c < width; ++c) to[c] -= L[p] * from[c];
        }
    }
}

}  // namespace

void LdlAnalysis::solve(const double* L, const double* inverse, double* x, Index columns, double* work) const {
    for (Index k = 0; k < order; ++k) {
        std::copy_n(x + old_[static_cast<std::size_t>(k)] * columns, columns, work + k * columns);
    }
    const auto run = columns == 1 ? &substitute<1> : columns == 2 ? &substitute<2> : columns == 4 ? &substitute<4> : &substitute<0>;
    run(order, start_.data(), column_.data(), L, inverse, work, columns);
    for (Index k = 0; k < order; ++k) {
        std::copy_n(work + k * columns, columns, x + old_[static_cast<std::size_t>(k)] * columns);
    }
}

LdlFactor::LdlFactor(std::shared_ptr<const LdlAnalysis> of, Index instances)
    : analysis(std::move(of)),
      batch(instances),
      // not zeroed: every entry is written
      L(new double[static_cast<std::size_t>(instances * analysis->fill())]),
      inverse(new double[static_cast<std::size_t>(instances * analysis->order)]),
      turned(static_cast<std::size_t>(instances), 0) {}

std::unique_ptr<LdlFactor> factor(std::shared_ptr<const LdlAnalysis> analysis, Index batch, const double* values, Index stride,
                                  const double* shift, int threads) {
    auto out = std::make_unique<LdlFactor>(std::move(analysis), batch);
    const LdlAnalysis& plan = *out->analysis;
    const auto used = static_cast<std::size_t>(std::max<Index>(1, std::min<Index>(threads, batch)));
    std::vector<std::vector<double>> work(used);
    std::vector<std::vector<Index>> next(used);
    Pool::run(batch, threads, [&](Index i, int id) {
        const auto me = static_cast<std::size_t>(id);
        work[me].resize(static_cast<std::size_t>(plan.workspace()), 0.0);
        next[me].resize(static_cast<std::size_t>(plan.order));
        out->turned[static_cast<std::size_t>(i)] =
            plan.factor(values + i * stride, shift, out->L.get() + i * plan.fill(), out->inverse.get() + i * plan.order,
                        work[me].data(), next[me].data());
    });
    return out;
}

void solve(const LdlFactor& factor, double* x, Index columns, int threads) {
    const LdlAnalysis& plan = *factor.analysis;
    const auto used = static_cast<std::size_t>(std::max<Index>(1, std::min<Index>(threads, factor.batch)));
    std::vector<std::vector<double>> work(used);
    Pool::run(factor.batch, threads, [&](Index i, int id) {
        auto& mine = work[static_cast<std::size_t>(id)];
        mine.resize(static_cast<std::size_t>(plan.order * columns));
        plan.solve(factor.L.get() + i * plan.fill(), factor.inverse.get() + i * plan.order, x + i * plan.order * columns, columns,
                   mine.data());
    });
}

void multiply(const LdlAnalysis& analysis, Index batch, const double* values, Index stride, const double* x, double* y,
              Index columns, int threads) {
    const Index size = analysis.order * columns;
    Pool::run(batch, threads,
              [&](Index i, int) { analysis.multiply(values + i * stride, x + i * size, y + i * size, columns); });
}

}  // namespace core
