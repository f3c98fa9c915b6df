// All cone programs of a call: the answers for the caller, and the records for the derivative.
#pragma once

#include "batch.hpp"
#include "conic_solver.hpp"

namespace core {

struct ConicAnswers {
    Out x, y, z, s, value;  // y: of the zero rows; z, s: of the others
    double* residuals = nullptr;
    std::int8_t* status = nullptr;
    std::int32_t* iterations = nullptr;
    double* condition = nullptr;
    double* margin = nullptr;
};

struct ConicHandle {
    Index batch = 0, n = 0;
    Cones cones;
    std::vector<ConicRecord> records;
};

inline void write_answer(const ConicWorker& w, const Outcome& outcome, Index i, const ConicAnswers& to) {
    to.status[i] = static_cast<std::int8_t>(outcome.status);
    to.iterations[i] = outcome.iterations;
    to.condition[i] = outcome.condition;
    to.margin[i] = outcome.margin;
    const Program& program = w.program;
    if (outcome.status != Status::certified) {
        for (int k = 0; k < 3; ++k) to.residuals[3 * i + k] = infinity;
        to.x.write(i, Vector::Zero(program.n));
        to.y.write(i, Vector::Zero(program.p));
        to.z.write(i, Vector::Zero(program.m));
        to.s.write(i, Vector::Zero(program.m));
        to.value.write_number(i, 0.0);
        return;
    }
    const Residuals& r = w.residuals;
    const ConicPoint& point = w.point;
    to.residuals[3 * i] = r.primal;
    to.residuals[3 * i + 1] = r.dual;
    to.residuals[3 * i + 2] = r.gap;
    const Vector& E = program.general->E;
    to.x.write(i, point.x);
    const Index p = program.p, m = program.m;
    to.y.write(i, point.z.head(p).cwiseProduct(E.head(p)) / program.c);
    to.z.write(i, point.z.tail(m).cwiseProduct(E.tail(m)) / program.c);
    to.s.write(i, point.s.tail(m).cwiseQuotient(E.tail(m)));
    to.value.write_number(i, (0.5 * r.Px.dot(point.x) + program.q.dot(point.x)) / program.c);
}

inline ConicWorker& conic_worker() {
    thread_local ConicWorker one;
    return one;
}

// mu: (B or 1) float64 numbers, or no data for 0.
inline std::unique_ptr<ConicHandle> solve(const ConicCall& call, const ConicStart& start, const Block& mu,
                                          const ConicAnswers& to, int threads) {
    auto handle = std::make_unique<ConicHandle>();
    handle->batch = call.data.batch;
    handle->n = call.data.n;
    handle->cones = call.cones;
    handle->records.resize(static_cast<std::size_t>(call.data.batch));
    ConicShared shared;
    shared.prepare(call);
    Pool::run(call.data.batch, threads, [&](Index i, int) {
        ConicWorker& w = conic_worker();
        const double at = mu.present() ? static_cast<const double*>(mu.data)[i * mu.stride] : 0.0;
        Outcome outcome;
        if (std::isfinite(at) && at >= 0.0) {
            outcome = w.solve(call, shared, i, start, at, handle->records[i]);
        } else {
            w.program.load_vectors(call.data, i);
            outcome.status = Status::not_finite;
        }
        write_answer(w, outcome, i, to);
    });
    return handle;
}

}  // namespace core
