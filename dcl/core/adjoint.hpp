// The vector-Jacobian product of an answer: one solve with the kept factor, and outer products.
//
// With T = s / z of each row (0 on equalities and active rows, infinite on inactive ones), in the program's units,
//
//     P du + A'w = g_x,     A du - T w = g_z                             (the symmetric K of factor.hpp)
//     q~ = -du,   b~ = w,   P~ = -(du x' + x du') / 2,   A~ = -(z du' + w x')      for the stacked rows (dcl/implicit/solve.py)
//
// The value f = 1/2 x'Px + q'x adds its slope g_f (Px + q) = -g_f A'z to g_x.  That sum cancels, so it is not formed: with
// w - g_f z in place of w it leaves the first equation and adds -g_f T z = -g_f s to the second (nothing at mu = 0, where
// this is the envelope theorem).  f depends on q and P by itself too: q~ += g_f x, P~ += g_f x x' / 2.
// Data that the batch shares get the sum over the batch: two products of matrices, in an order that no thread changes.
#pragma once

#include "batch.hpp"

namespace core {

struct Cotangents {
    Block x, y, z, z_lb, z_ub, value;
};

// Gradients of the arguments; no data: not wanted; stride 0: the sum over the batch.
struct Gradients {
    Out P, q, A, b, G, h, lb, ub;
};

// Factor and point of a record, with the data of the call.
struct Recalled {
    Factor factor;
    Curvature curvature;
    Matrix columns;
    Vector scaled;

    // P as it is kept by the caller where that is symmetric float64, else a copy.
    void load(const Call& call, const Handle& handle, const Record& record, Index i) {
        const Index n = call.n, p = call.p;
        if (call.P.present() && record.is_symmetric && !call.single) {
            factor.set(static_cast<const double*>(call.P.data) + i * call.P.stride, n, record.c);
        } else {
            curvature.load(call, i);
            factor.set(curvature.P.data(), n, record.c);
        }
        gather(call, record.strong, record, i, p, factor.strong);
        gather(call, record.weak, record, i, p, factor.weak);
        factor.T = record.T;
        factor.W = record.W;
        factor.G = record.G;
        factor.set_factors(record.shares_L1 ? handle.L1.data() : record.L1.data(), record.L2.data(), false);
    }

private:
    static void gather(const Call& call, const Integers& ids, const Record& record, Index i, Index p, Rows& rows) {
        const Index n = call.n, general = call.general();
        rows.reset(n, count(ids));
        for (const Index id : ids) {
            if (id >= general) {
                const bool low = id < general + call.lower();
                rows.add_bound(low ? id - general : id - general - call.lower(), low ? -1.0 : 1.0);
                continue;
            }
            const Block& block = id < p ? call.A : call.G;
            const Index offset = i * block.stride + (id < p ? id : id - p) * n;
            if (call.single) {
                const float* const at = static_cast<const float*>(block.data) + offset;
                rows.add_general(record.E(id) * Eigen::Map<const Eigen::VectorXf>(at, n).cast<double>());
            } else {
                rows.add_general(record.E(id) * VectorView(static_cast<const double*>(block.data) + offset, n));
            }
        }
    }
};

// K (a, y) = (r1, r2) of a step, refined: with ordinary residuals until they are rounding, then with compensated ones where
// the condition takes more than six digits of a part of the solution (dcl/kkt/dense.py).
struct Refined {
    Vector a, y;

    void solve(const Factor& factor, double condition, ConstVectorRef r1, ConstVectorRef r2) {
        const Index n = factor.n(), k = factor.size();
        a.resize(n), y.resize(k), s1_.resize(n), s2_.resize(k), da_.resize(n), dy_.resize(k);
        factor.once(r1, r2, a, y);
        const double size = std::sqrt(r1.squaredNorm() + r2.squaredNorm());
        if (size == 0.0) return;
        double error = remaining(factor, r1, r2, a, y);
        for (int step = 0; step < 4 && error > 1e-14 * size; ++step) {
            factor.once(s1_, s2_, da_, dy_);
            a_new_ = a + da_;
            y_new_ = y + dy_;
            const double after = remaining(factor, r1, r2, a_new_, y_new_);
            if (!(after < error)) break;
            a.swap(a_new_);
            y.swap(y_new_);
            error = after;
        }
        if (!is_delicate(condition)) return;
        for (int step = 0; step < 4; ++step) {
            factor.residual(r1, r2, a, y, s1_, s2_);
            factor.once(s1_, s2_, da_, dy_);
            a += da_;
            y += dy_;
            const double moved = std::sqrt(da_.squaredNorm() + dy_.squaredNorm());
            if (moved <= 1e-14 * std::sqrt(a.squaredNorm() + y.squaredNorm())) break;
        }
    }

private:
    Vector s1_, s2_, da_, dy_, a_new_, y_new_;

    double remaining(const Factor& factor, ConstVectorRef r1, ConstVectorRef r2, const Vector& at_a, const Vector& at_y) {
        factor.multiply(at_a, at_y, s1_, s2_);
        s1_ = r1 - s1_;
        s2_ = r2 - s2_;
        return std::sqrt(s1_.squaredNorm() + s2_.squaredNorm());
    }

    bool is_delicate(double condition) const {
        if (condition > delicate) return true;
        const double in_a = magnitude(a), in_y = magnitude(y);
        const double amplified = condition * std::max(in_a, in_y);
        return y.size() > 0 && in_y > 0.0 && in_a > 2e-16 * amplified && delicate * std::min(in_a, in_y) < amplified;
    }
};

// The derivative of one instance, in the caller's units: du (n) and w, z of the stacked rows.
struct Pulled {
    Vector u, w, z, x;
    double value = 0.0;

    void reset(Index n, Index rows) {
        u.setZero(n);
        w.setZero(rows);
        z.setZero(rows);
        x.setZero(n);
        value = 0.0;
    }
};

struct AdjointWorker {
    Recalled recalled;
    Refined refined;
    Vector r1, r2, g, half;
    Matrix rows;

    void pull(const Call& call, const Handle& handle, const Cotangents& from, Index i, Pulled& out) {
        const Record& record = handle.records[i];
        const Index n = call.n, p = call.p, m = call.m, general = p + m, all = call.rows();
        out.reset(n, all);
        if (record.status != Status::certified) return;
        recalled.load(call, handle, record, i);
        const Factor& factor = recalled.factor;
        // cotangents of x and of the scaled multipliers z' = c z / E
        r1.setZero(n);
        g.setZero(all);
        if (from.x.present()) read(call, from.x, i, r1.head(n));
        if (from.y.present() && p > 0) read(call, from.y, i, g.head(p));
        if (from.z.present() && m > 0) read(call, from.z, i, g.segment(p, m));
        if (from.z_lb.present() && call.lower() > 0) read(call, from.z_lb, i, g.segment(general, n));
        if (from.z_ub.present() && call.upper() > 0) read(call, from.z_ub, i, g.segment(general + call.lower(), n));
        g.head(general).array() *= record.E.array();
        g /= record.c;
        if (from.value.present()) {
            Vector one(1);
            read(call, from.value, i, one.head(1));
            out.value = one(0);
        }
        const Index k = factor.strong.size(), weak = factor.weak.size();
        r2.resize(k + weak);
        const double slope = out.value / record.c;  // of the scaled multipliers
        for (Index j = 0; j < k; ++j) {
            const Index id = record.strong[j];
            r2(j) = g(id) - slope * record.T(j) * record.z(id);
        }
        for (Index j = 0; j < weak; ++j) {
            const Index id = record.weak[j];
            r2(k + j) = g(id) - slope * record.z(id) / record.W(j);
        }
        refined.solve(factor, record.condition, r1, r2);
        for (Index j = 0; j < k; ++j) refined.y(j) -= slope * record.z(record.strong[j]);
        for (Index j = 0; j < weak; ++j) refined.y(k + j) -= slope * record.z(record.weak[j]);
        out.u = record.c * refined.a;
        out.x = record.x;
        for (Index j = 0; j < k; ++j) put(record, record.strong[j], refined.y(j), general, out);
        for (Index j = 0; j < weak; ++j) put(record, record.weak[j], refined.y(k + j), general, out);
    }

    // The gradients of instance i of data that the batch does not share.
    void write(const Call& call, const Pulled& t, Index i, const Gradients& to) {
        const Index n = call.n, p = call.p, m = call.m, low = p + m, high = low + call.lower();
        if (own(to.P)) {
            rows.resize(n, n);
            half = 0.25 * t.value * t.x - 0.5 * t.u;
            for (Index j = 0; j < n; ++j) rows.col(j) = t.x(j) * half + half(j) * t.x;
            to.P.write(i, rows);
        }
        if (own(to.q)) to.q.write(i, t.value * t.x - t.u);
        if (own(to.A)) write_matrix(t, 0, p, i, to.A);
        if (own(to.G)) write_matrix(t, p, m, i, to.G);
        if (own(to.b)) to.b.write(i, t.w.head(p));
        if (own(to.h)) to.h.write(i, t.w.segment(p, m));
        if (own(to.lb) && call.lower() > 0) to.lb.write(i, -t.w.segment(low, n));
        if (own(to.ub) && call.upper() > 0) to.ub.write(i, t.w.segment(high, n));
    }

private:
    static bool own(const Out& to) { return to.present() && to.stride != 0; }

    static void put(const Record& record, Index id, double w, Index general, Pulled& out) {
        const double E = id < general ? record.E(id) : 1.0;
        out.w(id) = E * w;
        out.z(id) = E * record.z(id) / record.c;
    }

    void write_matrix(const Pulled& t, Index first, Index count, Index i, const Out& to) {
        rows.resize(t.x.size(), count);
        for (Index j = 0; j < count; ++j) {
            const double z = t.z(first + j), w = t.w(first + j);
            if (z == 0.0 && w == 0.0) {
                rows.col(j).setZero();
            } else {
                rows.col(j) = -z * t.u - w * t.x;
            }
        }
        to.write(i, rows);
    }
};

// Sums over the batch, from the columns of all instances.
struct Sums {
    Matrix U, W, Z, X;
    Vector value;
    bool wanted = false;

    void resize(const Call& call, const Gradients& to) {
        for (const Out* out : {&to.P, &to.q, &to.A, &to.b, &to.G, &to.h, &to.lb, &to.ub}) {
            wanted |= out->present() && out->stride == 0;
        }
        if (!wanted) return;
        U.resize(call.n, call.batch);
        X.resize(call.n, call.batch);
        W.resize(call.rows(), call.batch);
        Z.resize(call.rows(), call.batch);
        value.resize(call.batch);
    }

    void take(const Pulled& t, Index i) {
        if (!wanted) return;
        U.col(i) = t.u;
        W.col(i) = t.w;
        Z.col(i) = t.z;
        X.col(i) = t.x;
        value(i) = t.value;
    }

    void write(const Call& call, const Gradients& to) const {
        if (!wanted) return;
        const Index n = call.n, p = call.p, m = call.m, low = p + m, high = low + call.lower();
        if (sum(to.P)) {
            const Matrix half = (X * (0.25 * value).asDiagonal() - 0.5 * U) * X.transpose();
            to.P.write(0, half + half.transpose());
        }
        if (sum(to.q)) to.q.write(0, X * value - U.rowwise().sum());
        if (sum(to.A)) to.A.write(0, matrix(0, p));
        if (sum(to.G)) to.G.write(0, matrix(p, m));
        if (sum(to.b)) to.b.write(0, W.topRows(p).rowwise().sum());
        if (sum(to.h)) to.h.write(0, W.middleRows(p, m).rowwise().sum());
        if (sum(to.lb) && call.lower() > 0) to.lb.write(0, -W.middleRows(low, n).rowwise().sum());
        if (sum(to.ub) && call.upper() > 0) to.ub.write(0, W.middleRows(high, n).rowwise().sum());
    }

private:
    static bool sum(const Out& to) { return to.present() && to.stride == 0; }

    // rows first .. first + count of A~ as columns: -(U Z' + X W')
    Matrix matrix(Index first, Index count) const {
        Matrix out = U * Z.middleRows(first, count).transpose();
        out.noalias() += X * W.middleRows(first, count).transpose();
        return -out;
    }
};

inline AdjointWorker& adjoint_worker() {
    thread_local AdjointWorker one;
    return one;
}

inline void adjoint(const Call& call, const Handle& handle, const Cotangents& from, Gradients to, int threads) {
    if (call.batch == 1) {  // nothing to sum
        for (Out* out : {&to.P, &to.q, &to.A, &to.b, &to.G, &to.h, &to.lb, &to.ub}) out->stride = 1;
    }
    Sums sums;
    sums.resize(call, to);
    Pool::run(call.batch, threads, [&](Index i, int) {
        AdjointWorker& w = adjoint_worker();
        thread_local Pulled pulled;
        w.pull(call, handle, from, i, pulled);
        sums.take(pulled, i);
        w.write(call, pulled, i, to);
    });
    sums.write(call, to);
}

}  // namespace core
