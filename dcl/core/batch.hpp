// All instances of a call: the answers for the caller, and the records for the derivative.
#pragma once

#include <array>

#include "pool.hpp"
#include "solver.hpp"

namespace core {

// Where an answer goes: instance i at data + i * stride, of the caller's type; no data: nowhere.
struct Out {
    void* data = nullptr;
    Index stride = 0;
    bool single = false;

    bool present() const { return data != nullptr; }

    template <class Derived>
    void write(Index i, const Eigen::DenseBase<Derived>& value) const {
        if (single) {
            float* const at = static_cast<float*>(data) + i * stride;
            Eigen::Map<Eigen::MatrixXf>(at, value.rows(), value.cols()) = value.derived().template cast<float>();
        } else {
            double* const at = static_cast<double*>(data) + i * stride;
            Eigen::Map<Matrix>(at, value.rows(), value.cols()) = value.derived();
        }
    }

    void write_number(Index i, double value) const {
        if (single) {
            static_cast<float*>(data)[i * stride] = static_cast<float>(value);
        } else {
            static_cast<double*>(data)[i * stride] = value;
        }
    }
};

struct Answers {
    Out x, y, z, z_lb, z_ub, value;
};

// What `solve` leaves for the derivative.
struct Handle {
    Index batch = 0, n = 0, p = 0, m = 0, lower = 0, upper = 0;
    Index left = 0;  // instances that are not certified
    std::vector<std::array<double, 7>> reports;  // residuals primal, dual, gap; status, iterations, condition, margin
    Matrix L1;  // of all instances that share P
    std::vector<Record> records;
};

// x (B, n) and the multipliers (B, rows) of the answers, in the caller's units; zero where they are not certified.
inline void recall(const Handle& handle, double* x, double* z) {
    const Index n = handle.n, rows = handle.p + handle.m + handle.lower + handle.upper;
    for (Index i = 0; i < handle.batch; ++i) {
        const Record& record = handle.records[i];
        Eigen::Map<Vector> x_i(x + i * n, n), z_i(z + i * rows, rows);
        if (record.status != Status::certified) {
            x_i.setZero();
            z_i.setZero();
            continue;
        }
        x_i = record.x;
        z_i = record.z / record.c;
        z_i.head(record.E.size()).array() *= record.E.array();
    }
}

// A worker of each thread keeps its buffers from call to call.
inline Worker& worker() {
    thread_local Worker one;
    return one;
}

inline void write_answer(const Program& program, const Point& point, const Outcome& outcome, const Residuals& r, Index i,
                         const Answers& to, std::array<double, 7>& report) {
    const bool certified = outcome.status == Status::certified;
    report[0] = certified ? r.primal : infinity;
    report[1] = certified ? r.dual : infinity;
    report[2] = certified ? r.gap : infinity;
    report[3] = static_cast<double>(outcome.status);
    report[4] = outcome.iterations;
    report[5] = outcome.condition;
    report[6] = outcome.margin;
    const Index n = program.n, p = program.p, m = program.m;
    if (!certified) {
        to.x.write(i, Vector::Zero(n));
        to.y.write(i, Vector::Zero(p));
        to.z.write(i, Vector::Zero(m));
        to.z_lb.write(i, Vector::Zero(program.lower));
        to.z_ub.write(i, Vector::Zero(program.upper));
        to.value.write_number(i, 0.0);
        return;
    }
    const double c = program.c;
    const Vector& E = program.general->E;
    to.x.write(i, point.x);
    to.y.write(i, (point.z.head(p).cwiseProduct(E.head(p)) / c));
    to.z.write(i, (point.z.segment(p, m).cwiseProduct(E.segment(p, m)) / c));
    to.z_lb.write(i, (point.z.segment(p + m, program.lower) / c));
    to.z_ub.write(i, (point.z.segment(p + m + program.lower, program.upper) / c));
    to.value.write_number(i, (0.5 * r.Px.dot(point.x) + program.q.dot(point.x)) / c);
}

// mu: (B or 1) float64 numbers >= 0, or no data for 0.  keep: will a derivative be asked for?
inline std::unique_ptr<Handle> solve(const Call& call, const StartBlocks& start, const Block& mu, const Answers& to, bool keep,
                                     int threads) {
    auto handle = std::make_unique<Handle>();
    handle->batch = call.batch;
    handle->n = call.n, handle->p = call.p, handle->m = call.m;
    handle->lower = call.lower(), handle->upper = call.upper();
    handle->reports.resize(static_cast<std::size_t>(call.batch));
    if (keep) handle->records.resize(static_cast<std::size_t>(call.batch));
    Shared shared;
    shared.prepare(call);
    Pool::run(call.batch, threads, [&](Index i, int) {
        Worker& w = worker();
        const double at = mu.present() ? static_cast<const double*>(mu.data)[i * mu.stride] : 0.0;
        Outcome outcome;
        if (std::isfinite(at) && at >= 0.0) {
            outcome = w.solve(call, shared, i, start, at, keep ? handle->records[i] : w.unkept);
        } else {
            w.program.load_vectors(call, i);
            outcome.status = Status::not_finite;
        }
        write_answer(w.program, w.point, outcome, w.residuals, i, to, handle->reports[i]);
    });
    if (keep && shared.has_P) handle->L1 = shared.L;
    for (Index i = 0; i < call.batch; ++i) handle->left += handle->reports[i][3] != 0.0;
    return handle;
}

}  // namespace core
