// affine.hpp, pullback.hpp, ldl.hpp, pool.hpp: sparse maps, the sparse factorization, and the threads that run them.
#include <numeric>

#include <Eigen/Dense>

#include "../ldl.hpp"
#include "../pullback.hpp"
#include "check.hpp"

using namespace test;

namespace {

// A sparse matrix with empty rows, empty columns and weights, by rows and by columns.
struct Sparse {
    Matrix M;
    std::vector<std::int64_t> start, place, column_start, column_place;
    std::vector<double> weight, column_weight;
    Vector offset;

    Sparse(Random& random, Index rows, Index columns) : M(random.matrix(rows, columns)), offset(random.vector(rows)) {
        M = (M.array().abs() < 0.6).select(0.0, M);
        if (rows > 1) M.row(1).setZero();
        if (columns > 2) M.col(2).setZero();
        list(M, start, place, weight);
        list(M.transpose(), column_start, column_place, column_weight);
    }
    core::Lists by_row() const { return {M.rows(), start.data(), place.data(), weight.data(), offset.data()}; }
    core::Lists by_column() const {
        return {M.cols(), column_start.data(), column_place.data(), column_weight.data(), nullptr};
    }

private:
    static void list(const Matrix& M, std::vector<std::int64_t>& start, std::vector<std::int64_t>& place, std::vector<double>& weight) {
        start.assign(1, 0);
        for (Index i = 0; i < M.rows(); ++i) {
            for (Index j = 0; j < M.cols(); ++j) {
                if (M(i, j) != 0.0) place.push_back(j), weight.push_back(M(i, j));
            }
            start.push_back(static_cast<std::int64_t>(place.size()));
        }
    }
};

void affine_map_and_its_transpose() {
    Random random(1);
    for (const int threads : {1, 3}) {
        for (const auto& [rows, first, second] : std::vector<std::array<Index, 3>>{{5, 4, 3}, {3, 2, 0}, {0, 2, 1}, {2, 0, 0}}) {
            for (const bool shared : {false, true}) {
                const Index batch = 4;
                const Sparse map(random, rows, first + second);
                Matrix one = random.matrix(first, batch), two = random.matrix(second, shared ? 1 : batch);
                const Matrix y = random.matrix(rows, batch);
                Matrix data(rows, batch), g_one(first, batch), g_two(second, shared ? 1 : batch);
                const Index stride = shared ? 0 : second;
                core::assemble(map.by_row(), batch, {{one.data(), first, first}, {two.data(), stride, second}}, data.data(), threads);
                Matrix u(first + second, batch);
                u << one, (shared ? Matrix(two.replicate(1, batch)) : two);
                close(data, Matrix((map.M * u).colwise() + map.offset), 1e-14, "c + M u");
                Matrix copy = y;
                core::transpose(map.by_column(), batch, {copy.data(), rows, rows},
                                {{g_one.data(), first, first}, {g_two.data(), stride, second}}, threads);
                const Matrix back = map.M.transpose() * y;
                close(g_one, Matrix(back.topRows(first)), 1e-14, "the first part of M'y");
                const Matrix rest = back.bottomRows(second);
                close(g_two, shared ? Matrix(rest.rowwise().sum()) : rest, 1e-14, "the second, a sum where it is shared");
            }
        }
    }
}

void one_parameter_without_a_copy() {
    Random random(2);
    const Sparse map(random, 6, 4);
    Matrix u = random.matrix(4, 3), data(6, 3), y = random.matrix(6, 3), back(4, 3), sum(4, 1);
    core::assemble(map.by_row(), 3, {{u.data(), 4, 4}}, data.data(), 1);
    close(data, Matrix((map.M * u).colwise() + map.offset), 1e-14, "c + M u");
    core::transpose(map.by_column(), 3, {y.data(), 6, 6}, {{back.data(), 4, 4}}, 2);
    close(back, Matrix(map.M.transpose() * y), 1e-14, "M'y");
    core::transpose(map.by_column(), 3, {y.data(), 6, 6}, {{sum.data(), 0, 4}}, 2);
    close(sum, Matrix((map.M.transpose() * y).rowwise().sum()), 1e-14, "its sum over the batch");
    core::transpose(map.by_column(), 0, {nullptr, 6, 6}, {{sum.data(), 0, 4}}, 2);
    close(sum, Matrix::Zero(4, 1), 0.0, "of no instance: zero");
}

// y by dense outer products, c and certified instances as they come
void pullback_of_outer_products() {
    Random random(3);
    const Index n = 3, m = 2, batch = 3;
    Matrix x = random.matrix(n, batch), u = random.matrix(n, batch), z = random.matrix(m, batch), w = random.matrix(m, batch);
    Vector c = random.vector(batch);
    const std::vector<std::int64_t> P_row{0, 2, 1}, P_column{1, 2, 0}, A_row{1, 0}, A_column{2, 0}, q_at{2}, b_at{1, 0};
    core::Entries entries;
    entries.P = 3, entries.A = 2, entries.q = 1, entries.b = 2, entries.has_value = true;
    entries.P_row = P_row.data(), entries.P_column = P_column.data(), entries.A_row = A_row.data();
    entries.A_column = A_column.data(), entries.q_at = q_at.data(), entries.b_at = b_at.data();
    const Sparse map(random, entries.count(), 5);
    const std::vector<std::int8_t> left{0, 4, 0};
    for (const bool has_value : {true, false}) {
        const Vector at = has_value ? c : Vector::Zero(batch);
        Matrix y(entries.count(), batch);
        for (Index i = 0; i < batch; ++i) {
            const Vector x_i = x.col(i), u_i = u.col(i), z_i = z.col(i), w_i = w.col(i) - at(i) * z.col(i);
            const Matrix P = -u_i * x_i.transpose() + 0.5 * at(i) * x_i * x_i.transpose();
            const Matrix A = -(z_i * u_i.transpose() + w_i * x_i.transpose());
            const Vector q = at(i) * x_i - u_i;
            y.col(i) << P(0, 1), P(2, 2), P(1, 0), A(1, 2), A(0, 0), q(2), w_i(1), w_i(0), at(i);
        }
        y.col(1).setZero();
        Matrix own(2, batch), shared(3, 1);
        core::AdjointPoint point{{x.data(), n, n}, {z.data(), m, m}, {u.data(), n, n}, {w.data(), m, m}, {}, left.data()};
        if (has_value) point.c = {c.data(), 1, 1};
        core::pull_back(entries, map.by_column(), batch, point, {{own.data(), 2, 2}, {shared.data(), 0, 3}}, 2);
        const Matrix back = map.M.transpose() * y;
        close(own, Matrix(back.topRows(2)), 1e-14, "of each instance, zero where it is left");
        close(shared, Matrix(back.bottomRows(3).rowwise().sum()), 1e-14, "the sum over the batch");
    }
}

// A quasi-definite matrix [[H, B'], [B, -T]] with a sparse B, as entries of its upper triangle; some come twice.
struct QuasiDefinite {
    Matrix S;
    std::vector<std::int64_t> rows, columns;
    std::vector<double> values;

    QuasiDefinite(Random& random, Index n, Index m) : S(Matrix::Zero(n + m, n + m)) {
        for (Index i = 0; i < n + m; ++i) {
            add(i, i, (i < n ? 0.5 : -0.5) * (1.5 + random.number()));
            add(i, i, i < n ? 0.5 : -0.5);
        }
        for (Index i = 0; i < n; ++i) {
            for (Index j = n; j < n + m; ++j) {
                const double value = random.number();
                if (std::abs(value) > 0.7) add(i, j, value);
            }
        }
    }

private:
    void add(Index i, Index j, double value) {
        S(i, j) += value;
        if (i != j) S(j, i) += value;
        rows.push_back(i), columns.push_back(j), values.push_back(value);
    }
};

void sparse_factor() {
    Random random(4);
    for (const auto& [n, m] : std::vector<std::pair<Index, Index>>{{30, 20}, {1, 0}, {0, 0}, {0, 2}, {3, 40}}) {
        const QuasiDefinite Q(random, n, m);
        const Index order = n + m, batch = 2;
        const auto analysis = std::make_shared<const core::LdlAnalysis>(order, static_cast<Index>(Q.rows.size()), Q.rows.data(), Q.columns.data());
        Vector shift(order);
        for (Index i = 0; i < order; ++i) shift(i) = i < n ? 1e-6 : -1e-6;
        std::vector<double> values = Q.values;  // the second instance: twice the first
        for (const double value : Q.values) values.push_back(2.0 * value);
        const auto factor = core::factor(analysis, batch, values.data(), static_cast<Index>(Q.values.size()), shift.data(), 2);
        for (const Index columns : {1, 2, 3, 4}) {
            using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
            const Rows b = random.matrix(order, columns);
            std::vector<double> x(b.data(), b.data() + b.size());
            x.insert(x.end(), b.data(), b.data() + b.size());
            std::vector<double> y(x.size());
            core::solve(*factor, x.data(), columns, 2);
            for (Index i = 0; i < batch; ++i) {
                const Eigen::Map<const Rows> X(x.data() + i * b.size(), order, columns);
                Matrix S = (i + 1.0) * Q.S;
                S.diagonal() += shift;
                close(Matrix(S * X), Matrix(b), 1e-11, "(S + shift) x = b");
            }
            core::multiply(*analysis, batch, values.data(), static_cast<Index>(Q.values.size()), x.data(), y.data(), columns, 2);
            const Eigen::Map<const Rows> X(x.data() + b.size(), order, columns), Y(y.data() + b.size(), order, columns);
            close(Matrix(Y), Matrix(2.0 * Q.S * X), 1e-12, "S x");
        }
        Vector sizes(order), largest = Vector::Zero(order);
        analysis->row_sizes(Q.values.data(), sizes.data());
        for (std::size_t e = 0; e < Q.values.size(); ++e) {
            for (const auto at : {Q.rows[e], Q.columns[e]}) largest(at) = std::max(largest(at), std::abs(Q.values[e]));
        }
        close(sizes, largest, 0.0, "the largest entry of each row");
    }
}

void arrow_without_fill() {
    // a first row and column that are full: any order but the given one has no fill
    const Index order = 50;
    std::vector<std::int64_t> rows, columns;
    for (Index i = 0; i < order; ++i) rows.push_back(0), columns.push_back(i);
    for (Index i = 1; i < order; ++i) rows.push_back(i), columns.push_back(i);
    const core::LdlAnalysis analysis(order, static_cast<Index>(rows.size()), rows.data(), columns.data());
    check(analysis.fill() == order - 1, "L has no more entries than S");
}

void a_pivot_that_rounding_turns_around() {
    const std::int64_t row = 0, column = 0;
    const core::LdlAnalysis analysis(1, 1, &row, &column);
    const double value = -1e-9, shift = 1e-6, wrong = -1e-3;
    double L = 0.0, inverse = 0.0, work[2] = {0.0, 0.0};
    Index next = 0;
    analysis.factor(&value, &shift, &L, &inverse, work, &next);
    close(inverse, 1.0 / (1e-6 - 1e-9), 1e-6, "S + shift");
    analysis.factor(&wrong, &shift, &L, &inverse, work, &next);
    close(inverse, 1e6, 1e-6, "the shift in its place");
}

void threads_do_all_the_work_once() {
    for (const int threads : {1, 2, 7}) {
        for (const Index count : {0, 1, 3, 1000}) {
            std::vector<int> done(static_cast<std::size_t>(count), 0);
            std::atomic<bool> inside{true};
            core::Pool::run(count, threads, [&](Index i, int thread) {
                ++done[static_cast<std::size_t>(i)];
                if (thread < 0 || thread >= threads) inside = false;
            });
            check(std::accumulate(done.begin(), done.end(), 0) == count, "every number");
            for (const int times : done) check(times == 1, "once");
            check(inside, "thread numbers are below the number of threads");
        }
    }
}

void a_call_inside_of_a_call_works_alone() {
    std::atomic<int> done{0};
    core::Pool::run(4, 4, [&](Index, int) { core::Pool::run(5, 4, [&](Index, int) { ++done; }); });
    check(done == 20, "all of the inner calls");
}

void errors_come_to_the_caller() {
    for (const int threads : {1, 4}) {
        bool caught = false;
        try {
            core::Pool::run(100, threads, [](Index i, int) {
                if (i == 57) throw std::runtime_error("57");
            });
        } catch (const std::runtime_error& error) {
            caught = std::string(error.what()) == "57";
        }
        check(caught, "the exception of an instance");
        std::atomic<int> done{0};
        core::Pool::run(10, threads, [&](Index, int) { ++done; });
        check(done == 10, "and the next call works");
    }
}

}  // namespace

int main(int count, char** arguments) {
    return run(count, arguments,
               {{"affine_map_and_its_transpose", affine_map_and_its_transpose},
                {"one_parameter_without_a_copy", one_parameter_without_a_copy},
                {"pullback_of_outer_products", pullback_of_outer_products},
                {"sparse_factor", sparse_factor},
                {"arrow_without_fill", arrow_without_fill},
                {"a_pivot_that_rounding_turns_around", a_pivot_that_rounding_turns_around},
                {"threads_do_all_the_work_once", threads_do_all_the_work_once},
                {"a_call_inside_of_a_call_works_alone", a_call_inside_of_a_call_works_alone},
                {"errors_come_to_the_caller", errors_come_to_the_caller}});
}
