// The vector-Jacobian product of a cone program: one solve with the kept factor, and outer products.
//
// In the program's units, with B = Q'A and T = (1 - d) / d of the rows with d > 0 (conic_newton.hpp), w = Q w~:
//
//     P du + B'w~ = g_x - A'g_s,      B du - T w~ = Q'g_z
//     q~ = -du,   b~ = w + g_s,   P~ = -(du x' + x du') / 2,   A~ = -(z du' + (w + g_s) x')
//
// The value 1/2 x'Px + q'x adds its slope g_f (Px + q) = -g_f A'z to g_x: as in adjoint.hpp, w - g_f z takes the place of w,
// which adds -g_f T Q'z = -g_f Q's to the second equation (T = s / z in every cone, since phi''(s) s = -phi'(s); 0 at mu = 0).
#pragma once

#include "adjoint.hpp"
#include "conic_batch.hpp"

namespace core {

struct ConicCotangents {
    Block x, y, z, s, value;
};

struct ConicAdjointWorker {
    Factor factor;
    Curvature curvature;
    Refined refined;
    Cones cones;
    Vector r_1, r_2, g_z, g_s, w;

    void pull(const ConicCall& call, const ConicHandle& handle, const ConicCotangents& from, Index i, Pulled& out) {
        const ConicRecord& record = handle.records[i];
        const Index n = call.data.n, p = call.data.p, m = call.data.m, rows = p + m;
        out.reset(n, rows);
        if (record.status != Status::certified) return;
        recall(call, record, i);
        // cotangents of x, of z' = c z / E and of s' = E s
        r_1.setZero(n);
        g_z.setZero(rows);
        g_s.setZero(rows);
        if (from.x.present()) read(call.data, from.x, i, r_1.head(n));
        if (from.y.present() && p > 0) read(call.data, from.y, i, g_z.head(p));
        if (from.z.present() && m > 0) read(call.data, from.z, i, g_z.tail(m));
        g_z = g_z.cwiseProduct(record.E) / record.c;
        if (from.s.present() && m > 0) {
            read(call.data, from.s, i, g_s.tail(m));
            subtract_rows(call, i, g_s, r_1);
            g_s = g_s.cwiseQuotient(record.E);
        }
        if (from.value.present()) {
            Vector one(1);
            read(call.data, from.value, i, one.head(1));
            out.value = one(0);
        }
        const double slope = out.value / record.c;  // of the scaled multipliers
        if (slope != 0.0 && record.mu > 0.0) g_z -= slope * record.s;
        if (rows > 0) cones.to_eigen(g_z);
        const Index k = count(record.strong), weak = count(record.weak);
        r_2.resize(k + weak);
        for (Index j = 0; j < k; ++j) r_2(j) = g_z(record.strong[j]);
        for (Index j = 0; j < weak; ++j) r_2(k + j) = g_z(record.weak[j]);
        refined.solve(factor, record.condition, r_1, r_2);
        w.setZero(rows);
        for (Index j = 0; j < k; ++j) w(record.strong[j]) = refined.y(j);
        for (Index j = 0; j < weak; ++j) w(record.weak[j]) = refined.y(k + j);
        if (rows > 0) cones.from_eigen(w);
        out.u = record.c * refined.a;
        out.x = record.x;
        out.w = (w + g_s - slope * record.z).cwiseProduct(record.E);
        out.z = record.z.cwiseProduct(record.E) / record.c;
    }

private:
    // The factor, with the data of the call.
    void recall(const ConicCall& call, const ConicRecord& record, Index i) {
        const Index n = call.data.n;
        if (call.data.P.present() && record.is_symmetric && !call.data.single) {
            factor.set(static_cast<const double*>(call.data.P.data) + i * call.data.P.stride, n, record.c);
        } else {
            curvature.load(call.data, i);
            factor.set(curvature.P.data(), n, record.c);
        }
        factor.strong = record.strong_rows;
        factor.weak = record.weak_rows;
        factor.T = record.T;
        factor.W = record.W;
        factor.G = record.G;
        factor.set_factors(record.L1.data(), record.L2.data(), false);
        cones = record.cones;  // they have buffers, and the handle may be in use elsewhere
    }

    // out -= G'y in the caller's units, y of all rows, zero on the zero rows
    static void subtract_rows(const ConicCall& call, Index i, const Vector& y, Vector& out) {
        const Index n = call.data.n, m = call.data.m;
        const double* const at = static_cast<const double*>(call.data.G.data) + i * call.data.G.stride;
        out.noalias() -= MatrixView(at, n, m) * y.tail(m);
    }
};

inline void adjoint(const ConicCall& call, const ConicHandle& handle, const ConicCotangents& from, Gradients to, int threads) {
    if (call.data.batch == 1) {  // nothing to sum
        for (Out* out : {&to.P, &to.q, &to.A, &to.b, &to.G, &to.h}) out->stride = 1;
    }
    Sums sums;
    sums.resize(call.data, to);
    Pool::run(call.data.batch, threads, [&](Index i, int) {
        thread_local ConicAdjointWorker worker;
        thread_local AdjointWorker writer;
        thread_local Pulled pulled;
        worker.pull(call, handle, from, i, pulled);
        sums.take(pulled, i);
        writer.write(call.data, pulled, i, to);
    });
    sums.write(call.data, to);
}

}  // namespace core
