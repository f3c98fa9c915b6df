// The point of the central path: damped Newton on F at mu > 0, from the exact point (dcl/solve/path.py).
//
//     F(x, v) = ( Px + q + A'z,  Ax - b + z - v ),     z = (v + sqrt(v^2 + 4 mu)) / 2,  s = z - v,  s z = mu
//     D = dz/dv = z / (z + s),   W = D / (1 - D) = z / s
//
// dual_path.hpp, where P > 0 and there are few rows, or else steps by condensed.hpp come near,
//
//     M dx + A_e'dv_e = -f_1 - A_i'W f_i,   A_e dx = -f_e,   dv_i = (A_i dx + f_i) / (1 - D_i)
//
// and the last steps are those of factor.hpp, with T = s / z.  They share one factor, whose T and W are those of the point it
// was made at or of the last one: the difference is below rounding.  Where dual_path.hpp came near, all rows are strong there,
// and with R, L_A, Y and N of elimination.hpp
//
//     L1 = L of P,    L2 = [[L_A, 0], [Y', L_T]]  with  L_T L_T' = N + T
//
// costs one more factorization of the size of R.  A large T harms no other row: Cholesky's errors do not change with the scale of a
// row.  Elsewhere, and where this pair loses digits, rows with z > s are strong and the others weak.
#pragma once

#include "certify.hpp"
#include "condensed.hpp"
#include "dual_path.hpp"

namespace core {

struct Path {
    Vector v, z, s;
    int steps = 0;
    bool in_multipliers = false;  // did dual_path.hpp come near?

    // From the point (x, z, s) to that of the path at mu (in the program's units).  False where Newton's method stalls.
    // P: with the factor of P, and dual: of the program; where there is no such factor or no elimination, nullptr.
    bool follow(const Program& program, Point& point, double mu, const Factor& P, const Dual* dual) {
        v = point.z - point.s;
        for (Index i = 0; i < program.p; ++i) v(i) = point.z(i);
        x_ = point.x;
        steps = 0;
        const double goal = near * (1.0 + magnitude(program.q) + magnitude(program.side));
        // with more rows than that the condensed system is the smaller one
        in_multipliers = dual != nullptr && dual->a_0.size() <= program.n + program.n / 3;
        if (in_multipliers) {
            in_multipliers = dual_.follow(program, *dual, mu, v, goal, most_steps);
            steps = dual_.steps;
            if (in_multipliers) {
                v = dual_.v;
                dual->recover(program, P, dual_.w, x_, dy_);
                v.head(program.p) = dy_;
            }
        }
        double size = evaluate(program, x_, v, mu);
        // where P is nearly singular its multipliers lose digits that the condensed system keeps
        in_multipliers = in_multipliers && size <= goal;
        for (; steps < most_steps && size > goal && std::isfinite(size); ++steps) {
            const double before = size;
            weigh_rows(program);
            if (!condensed(program)) return false;
            spread(program);
            if (!all_finite(dx_) || !all_finite(dv_)) return false;
            size = damped(program, mu, size);
            if (!(size < before)) break;
        }
        point.x = x_;
        point.z = z;
        point.s = s;
        return std::isfinite(size);
    }

    // The strong and the weak rows at the point, into the factor.
    static void split(const Program& program, Point& point, Factor& factor, Integers& weak) {
        point.list_strong(program);
        weak.clear();
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.binds(i) && !(point.z(i) > point.s(i))) weak.push_back(i);
        }
        factor.set(program.P->data(), program.n, 1.0);
        factor.strong.gather(program, point.strong);
        factor.weak.gather(program, weak);
        weigh(program, point, factor, weak);
    }

    // All rows strong at the point, and their pair in the factor, which has that of P already, by its elimination.  False where N + T
    // is not definite; no variable has two bounds.
    static bool join(const Program& program, Point& point, const Elimination& known, Matrix& L2, Factor& factor) {
        const Index p = program.p;
        point.strong.clear();
        for (Index i = 0; i < program.rows(); ++i) {
            if (program.binds(i)) point.strong.push_back(i);
        }
        factor.strong.gather(program, point.strong);
        factor.weak.reset(program.n, 0);
        factor.G.resize(0);
        weigh(program, point, factor, {});
        if (!all_finite(factor.T)) return false;
        const Index k = factor.strong.size();
        L2.resize(k, k);
        L2.topLeftCorner(p, p) = known.L_A;
        for (Index j = p; j < k; ++j) {
            const Index row = row_of_N(program, point.strong[j]);
            const double sign = side_of(program, point.strong[j]);
            const double* const column = known.N.data() + row * known.N.rows();
            L2.row(j).head(p) = sign * known.Y.col(row).transpose();
            for (Index i = j; i < k; ++i) {
                L2(i, j) = sign * side_of(program, point.strong[i]) * column[row_of_N(program, point.strong[i])];
            }
            L2(j, j) += factor.T(j);
        }
        if (!cholesky(L2.bottomRightCorner(k - p, k - p))) return false;
        factor.set_second(L2.data());
        return true;
    }

    // T and W at the point, of rows that are strong and weak already.
    static void weigh(const Program& program, const Point& point, Factor& factor, const Integers& weak) {
        factor.T.resize(factor.strong.size());
        factor.W.resize(factor.weak.size());
        for (Index k = 0; k < count(point.strong); ++k) {
            const Index row = point.strong[k];
            factor.T(k) = row < program.p ? 0.0 : point.s(row) / point.z(row);
        }
        for (Index k = 0; k < count(weak); ++k) factor.W(k) = point.z(weak[k]) / point.s(weak[k]);
    }

    // One accurate Newton step from where `follow`, or the last such step, has come, with K factored there or nearby; returns its
    // size relative to the point.
    double sharpen(const Program& program, const Factor& factor, const Integers& weak, Point& point, double mu, Step& buffer) {
        const Integers& strong = point.strong;
        const Index k = factor.strong.size(), w = factor.weak.size();
        buffer.resize(program.n, k + w);
        buffer.r1 = -f1_;
        for (Index i = 0; i < k; ++i) buffer.r2(i) = -f2_(strong[i]);
        for (Index i = 0; i < w; ++i) buffer.r2(k + i) = -f2_(weak[i]);
        factor.once(buffer.r1, buffer.r2, buffer.a, buffer.y);
        Ax_.resize(program.rows());
        program.times(buffer.a, Ax_);
        // dv = dz - ds is dz / D and (A dx + f) / (1 - D): by what is not small
        const auto move = [&](Index row, double dz) {
            if (row < program.p) {
                v(row) += dz;
            } else if (z(row) > s(row)) {
                v(row) += dz * (z(row) + s(row)) / z(row);
            } else {
                v(row) += (Ax_(row) + f2_(row)) * (z(row) + s(row)) / s(row);
            }
        };
        for (Index i = 0; i < k; ++i) move(strong[i], buffer.y(i));
        for (Index i = 0; i < w; ++i) move(weak[i], buffer.y(k + i));
        x_ += buffer.a;
        evaluate(program, x_, v, mu);
        point.x = x_;
        point.z = z;
        point.s = s;
        return magnitude(buffer.a) / (1.0 + magnitude(x_));
    }

private:
    static constexpr int most_steps = 60, halvings = 40;
    // |F| from which two accurate steps with one factor reach rounding
    static constexpr double near = 1e-7;
    Condensed system_;
    DualPath dual_;
    Vector x_, f1_, f2_, W_, Ax_, dx_, dy_, dv_, x_new_, v_new_;

    // Where an inequality of the stacked rows is among R of elimination.hpp, and with which sign.
    static Index row_of_N(const Program& program, Index row) {
        return row < program.first_lower() ? row - program.p : program.m + program.variable(row);
    }
    static double side_of(const Program& program, Index row) { return program.is_lower(row) ? -1.0 : 1.0; }

    // F, z and s at (x, v); returns |F|
    double evaluate(const Program& program, const Vector& x, const Vector& v_at, double mu) {
        const Index rows = program.rows();
        take_halves(program, v_at, mu, z, s);
        f1_ = program.q;
        if (!program.is_zero) f1_.noalias() += *program.P * x;
        program.add_transposed(z, f1_);
        Ax_.resize(rows);
        program.times(x, Ax_);
        f2_.setZero(rows);
        for (Index i = 0; i < rows; ++i) {
            if (program.binds(i)) f2_(i) = Ax_(i) + s(i) - program.side(i);
        }
        return std::sqrt(f1_.squaredNorm() + f2_.squaredNorm());
    }

    void weigh_rows(const Program& program) {
        W_.setZero(program.rows());
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.binds(i)) W_(i) = z(i) / s(i);
        }
    }

    // dx and dy by the condensed system
    bool condensed(const Program& program) {
        if (!system_.compute(program, W_)) return false;
        dx_ = -f1_;
        dv_ = -W_.cwiseProduct(f2_);
        program.add_transposed(dv_, dx_);
        dy_ = -f2_.head(program.p);
        system_.solve(program, dx_, dy_);
        return true;
    }

    // dv for dx and dy
    void spread(const Program& program) {
        program.times(dx_, Ax_);
        dv_.setZero(program.rows());
        dv_.head(program.p) = dy_;
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.binds(i)) dv_(i) = (Ax_(i) + f2_(i)) * (z(i) + s(i)) / s(i);
        }
    }

    // The longest of the steps 1, 1/2, 1/4, ... that lowers |F|; returns |F| there.
    double damped(const Program& program, double mu, double size) {
        double length = 1.0;
        for (int k = 0; k < halvings; ++k, length *= 0.5) {
            x_new_ = x_ + length * dx_;
            v_new_ = v + length * dv_;
            const double after = evaluate(program, x_new_, v_new_, mu);
            if (after <= (1.0 - 1e-4 * length) * size) {
                x_ = x_new_;
                v = v_new_;
                return after;
            }
        }
        evaluate(program, x_, v, mu);
        return size;
    }
};

}  // namespace core
