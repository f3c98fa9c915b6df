// A primal-dual interior point with predictor and corrector (Mehrotra 1992), for every program without a definite P, and
// where pivoting gives up.  It need not converge: as soon as two iterations agree on which rows have z > s, `attempt` solves
// the equations of that active set.
//
//     P dx + A'dy + C'dz = -r_d,   A dx = -r_p,   C dx + ds = -r_i,   z ds + s dz = r_c
//
//     dz = (r_c + z (r_i + C dx)) / s     M of condensed.hpp with W = z / s
//
// A soft row may be violated by t, at the cost cap t:  Cx + s - t = side,  u = cap - z,  t u = 0 beside s z = 0.  Then
//
//     u dt - t dz = r_t,     dz = W (r_i + C dx + r_c / z - r_t / u),     W = 1 / (s / z + t / u)
#pragma once

#include "condensed.hpp"

namespace core {

struct InteriorPoint {
    Vector x, y, z, s;  // z, s: of the stacked rows, 0 and 1 on equalities and on rows that are not finite
    Vector t, u;        // of the soft rows; 0 and 1 on the others
    int iterations = 0;
    double mu = infinity, error = infinity;

    // attempt(x, y, z, s): does the active set of this point stand?  False after a bounded number of iterations without one.
    template <class Attempt>
    bool solve(const Program& program, Attempt&& attempt) {
        iterations = 0;
        x.setZero(program.n);
        y.setZero(program.p);
        count_ = program.inequalities() + (program.cap.array() < infinity).count();
        if (!start(program)) return false;
        guess_.assign(1, -1);  // equal to no set
        refused_.assign(1, -1);
        int short_steps = 0;
        for (; iterations < most_iterations; ++iterations) {
            residuals(program);
            if (!std::isfinite(error) || !std::isfinite(mu) || magnitude(x) > 1e12) return false;
            if (mu < ripe && error < ripe && agree(program) && attempt(x, y, z, s)) return true;
            if (mu < done && error < done) return false;
            if (count_ == 0) return false;
            W_.setZero(program.rows());
            for (Index i = program.p; i < program.rows(); ++i) {
                if (program.binds(i)) W_(i) = program.is_soft(i) ? 1.0 / (s(i) / z(i) + t(i) / u(i)) : z(i) / s(i);
            }
            if (!system_.compute(program, W_)) return false;
            const double length = advance(program);
            short_steps = length < 1e-2 ? short_steps + 1 : 0;
            if (short_steps > 4) return false;
        }
        return false;
    }

private:
    static constexpr int most_iterations = 50;
    static constexpr double ripe = 1e-2, done = 1e-13, fraction = 0.995;
    Condensed system_;
    Vector W_, r_d_, r_p_, r_i_, r_c_, r_t_, dx_, dy_, dz_, ds_, dt_, du_, Cx_;
    Integers guess_, refused_;
    Index count_ = 0;

    // Least squares with W = 1, then s and z pushed inside.
    bool start(const Program& program) {
        const Index rows = program.rows(), p = program.p;
        z.setZero(rows);
        s.setOnes(rows);
        t.setZero(rows);
        u.setOnes(rows);
        W_.setZero(rows);
        for (Index i = p; i < rows; ++i) W_(i) = program.binds(i) ? 1.0 : 0.0;
        if (!system_.compute(program, W_)) return false;
        x = -program.q;
        r_c_ = W_.cwiseProduct(program.side);
        program.add_transposed(r_c_, x);
        y = program.side.head(p);
        system_.solve(program, x, y);
        Cx_.resize(rows);
        program.times(x, Cx_);
        double outside_s = -infinity, outside_z = -infinity;
        const double width = (program.side - Cx_).tail(rows - p).lpNorm<1>() / static_cast<double>(std::max<Index>(rows - p, 1));
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i)) continue;
            if (program.is_soft(i)) {
                soften(i, program.side(i) - Cx_(i), program.cap(i), 1e-3 + width);
                continue;
            }
            s(i) = program.side(i) - Cx_(i);
            z(i) = -s(i);
            outside_s = std::max(outside_s, -s(i));
            outside_z = std::max(outside_z, -z(i));
        }
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i) || program.is_soft(i)) continue;
            if (outside_s > -1e-6) s(i) += 1.0 + outside_s;
            if (outside_z > -1e-6) z(i) += 1.0 + outside_z;
        }
        return true;
    }

    // s - t = slack and z + u = cap with s z = t u, and s t = width^2.
    void soften(Index i, double slack, double cap, double width) {
        const double large = 0.5 * (std::abs(slack) + std::sqrt(slack * slack + 4.0 * width * width));
        s(i) = slack > 0.0 ? large : width * width / large;
        t(i) = slack > 0.0 ? width * width / large : large;
        z(i) = cap * t(i) / (s(i) + t(i));
        u(i) = cap * s(i) / (s(i) + t(i));
    }

    void residuals(const Program& program) {
        const Index p = program.p, rows = program.rows();
        r_d_ = program.q;
        if (!program.is_zero) r_d_.noalias() += *program.P * x;
        r_c_ = z;
        r_c_.head(p) = y;
        program.add_transposed(r_c_, r_d_);
        Cx_.resize(rows);
        program.times(x, Cx_);
        r_p_ = Cx_.head(p) - program.side.head(p);
        r_i_.setZero(rows);
        double complementarity = 0.0;
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i)) continue;
            r_i_(i) = Cx_(i) + s(i) - t(i) - program.side(i);
            complementarity += s(i) * z(i) + t(i) * u(i);
        }
        mu = count_ > 0 ? complementarity / static_cast<double>(count_) : 0.0;
        const double size = 1.0 + magnitude(x);
        error = std::max({magnitude(r_d_) / (1.0 + magnitude(z)), magnitude(r_p_) / size, magnitude(r_i_) / size});
        mu /= (1.0 + magnitude(z)) * size;
    }

    // Do this and the last iterate agree on the rows with z > s and with t > u, and was that not refused before?
    bool agree(const Program& program) {
        Integers now;
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.binds(i) && z(i) > s(i)) now.push_back(i);
            if (t(i) > u(i)) now.push_back(program.rows() + i);
        }
        const bool same = (now == guess_ || count_ == 0) && now != refused_;
        guess_ = now;
        if (same) refused_ = now;
        return same;
    }

    // (dx, dy, ds, dz, dt, du) for the r_c and r_t at hand
    void direction(const Program& program) {
        const Index p = program.p, rows = program.rows();
        dx_ = -r_d_;
        dz_.setZero(rows);
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i)) continue;
            dz_(i) = program.is_soft(i) ? W_(i) * (r_i_(i) + r_c_(i) / z(i) - r_t_(i) / u(i))
                                        : (r_c_(i) + z(i) * r_i_(i)) / s(i);
        }
        Cx_ = -dz_;
        program.add_transposed(Cx_, dx_);
        dy_ = -r_p_;
        system_.solve(program, dx_, dy_);
        program.times(dx_, Cx_);
        ds_.setZero(rows);
        dt_.setZero(rows);
        du_.setZero(rows);
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i)) continue;
            dz_(i) += W_(i) * Cx_(i);
            if (!program.is_soft(i)) {
                ds_(i) = -r_i_(i) - Cx_(i);
                continue;
            }
            du_(i) = -dz_(i);
            ds_(i) = (r_c_(i) - s(i) * dz_(i)) / z(i);
            dt_(i) = (r_t_(i) + t(i) * dz_(i)) / u(i);
        }
    }

    double longest(ConstVectorRef t, ConstVectorRef dt, Index p) const {
        double step = infinity;
        for (Index i = p; i < t.size(); ++i) {
            if (dt(i) < 0.0) step = std::min(step, -t(i) / dt(i));
        }
        return step;
    }

    double advance(const Program& program) {
        const Index p = program.p, rows = program.rows();
        r_c_ = -s.cwiseProduct(z);
        r_t_ = -t.cwiseProduct(u);
        direction(program);
        const double affine_s = std::min({1.0, longest(s, ds_, p), longest(t, dt_, p)});
        const double affine_z = std::min({1.0, longest(z, dz_, p), longest(u, du_, p)});
        double now = 0.0, after = 0.0;
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i)) continue;
            now += s(i) * z(i) + t(i) * u(i);
            after += (s(i) + affine_s * ds_(i)) * (z(i) + affine_z * dz_(i));
            after += (t(i) + affine_s * dt_(i)) * (u(i) + affine_z * du_(i));
        }
        const double ratio = std::clamp(after / now, 0.0, 1.0), centering = ratio * ratio * ratio;
        const double aim = centering * now / static_cast<double>(count_);
        for (Index i = p; i < rows; ++i) {
            r_c_(i) = program.binds(i) ? aim - s(i) * z(i) - ds_(i) * dz_(i) : 0.0;
            r_t_(i) = program.is_soft(i) ? aim - t(i) * u(i) - dt_(i) * du_(i) : 0.0;
        }
        direction(program);
        double step_s = std::min(1.0, fraction * std::min(longest(s, ds_, p), longest(t, dt_, p)));
        double step_z = std::min(1.0, fraction * std::min(longest(z, dz_, p), longest(u, du_, p)));
        // a quadratic objective ties the dual residual to x: one length for both
        if (!program.is_zero) step_s = step_z = std::min(step_s, step_z);
        x += step_s * dx_;
        y += step_z * dy_;
        for (Index i = p; i < rows; ++i) {
            if (!program.binds(i)) continue;
            s(i) = std::max(s(i) + step_s * ds_(i), 1e-300);
            z(i) = std::max(z(i) + step_z * dz_(i), 1e-300);
            if (!program.is_soft(i)) continue;
            t(i) = std::max(t(i) + step_s * dt_(i), 1e-300);
            u(i) = std::max(u(i) + step_z * du_(i), 1e-300);
        }
        return std::min(step_s, step_z);
    }
};

}  // namespace core
