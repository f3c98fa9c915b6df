// K^-1 and its transpose at an answer, for higher derivatives and forward mode, in the caller's units.
//
//     K = [[P, A'D], [A, D - I]] of the stacked rows A (dcl/kkt/system.py),  D = dz/dv,  T = (1 - D) / D = s / z
//
//     tangent  K (dx, dv) = (a, b):      P dx + A'dz = a,  A dx - T dz = b,      dv = (1 + T) dz
//     adjoint  K'(ux, uv) = (gx, gv):    P ux + A'uv = gx,  A ux - T uv = (1 + T) gv
//
// on rows with D > 0.  On the others dz = 0 and dv = A dx - b;  uv = -gv.  With units, P' = c P and A' = E A:
// r' = (c r_1, E r_2), and z' = c E^-1 z as everywhere.
#pragma once

#include "adjoint.hpp"

namespace core {

struct KktWorker {
    Recalled recalled;
    Refined refined;
    General general;
    Vector r1, r2, right, rows;

    // right-hand sides (n) and (rows) in, solution out, of instance i; zero where it is not certified
    void solve(const Call& call, const Handle& handle, bool adjoint, Index i, VectorRef first, VectorRef second) {
        const Record& record = handle.records[i];
        if (record.status != Status::certified) {
            first.setZero();
            second.setZero();
            return;
        }
        recalled.load(call, handle, record, i);
        general.load(call, i);
        const Index k = recalled.factor.strong.size(), w = recalled.factor.weak.size();
        right = second;
        for (const Index id : record.strong) right(id) = 0.0;
        for (const Index id : record.weak) right(id) = 0.0;
        r1 = first;
        if (adjoint) add_transposed(call, right, r1);
        r1 *= record.c;
        r2.resize(k + w);
        for (Index j = 0; j < k + w; ++j) r2(j) = unit_of(record, call, id_of(record, j)) * second(id_of(record, j));
        if (adjoint) {
            for (Index j = 0; j < k + w; ++j) r2(j) *= 1.0 + ratio(record, call, j);
        }
        refined.solve(recalled.factor, record.condition, r1, r2);
        first = refined.a;
        if (adjoint) {
            second = -right;
        } else {
            rows.resize(call.rows());
            times(call, first, rows);
            second = rows - right;
        }
        for (Index j = 0; j < k + w; ++j) {
            const double dual = refined.y(j) * unit_of(record, call, id_of(record, j)) / record.c;
            second(id_of(record, j)) = adjoint ? dual : (1.0 + ratio(record, call, j)) * dual;
        }
    }

private:
    static Index id_of(const Record& record, Index j) {
        const auto k = count(record.strong);
        return j < k ? record.strong[j] : record.weak[j - k];
    }
    static double unit_of(const Record& record, const Call& call, Index id) {
        return id < call.general() ? record.E(id) : 1.0;
    }
    // T in the caller's units
    static double ratio(const Record& record, const Call& call, Index j) {
        const Index k = record.T.size();
        const double E = unit_of(record, call, id_of(record, j));
        return (j < k ? record.T(j) : 1.0 / record.W(j - k)) * record.c / (E * E);
    }

    void add_transposed(const Call& call, const Vector& z, Vector& out) const {
        const Index n = call.n, low = call.general(), high = low + call.lower();
        for (Index k = 0; k < low; ++k) out += (z(k) / general.E(k)) * general.C.col(k);
        if (call.lower() > 0) out -= z.segment(low, n);
        if (call.upper() > 0) out += z.segment(high, n);
    }
    void times(const Call& call, ConstVectorRef x, Vector& out) const {
        const Index n = call.n, low = call.general(), high = low + call.lower();
        for (Index k = 0; k < low; ++k) out(k) = general.C.col(k).dot(x) / general.E(k);
        if (call.lower() > 0) out.segment(low, n) = -x;
        if (call.upper() > 0) out.segment(high, n) = x;
    }
};

// first (B, n) and second (B, rows), float64: right-hand sides in, solutions out.
inline void solve_kkt(const Call& call, const Handle& handle, bool adjoint, double* first, double* second, int threads) {
    Pool::run(call.batch, threads, [&](Index i, int) {
        thread_local KktWorker worker;
        Eigen::Map<Vector> one(first + i * call.n, call.n), other(second + i * call.rows(), call.rows());
        worker.solve(call, handle, adjoint, i, one, other);
    });
}

}  // namespace core
