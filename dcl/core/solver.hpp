// One instance: data, active set, Newton, verdict.
//
//     P > 0:    elimination.hpp and pivoting.hpp propose the active set, whose factor comes with it
//     else, or where pivoting gives up:    interior_point.hpp proposes, factor.hpp factors
//     certify.hpp decides; mu > 0: path.hpp goes on from there
#pragma once

#include "elimination.hpp"
#include "interior_point.hpp"
#include "path.hpp"
#include "pivoting.hpp"

namespace core {

// What an instance leaves for its derivative, in the units of the program.
struct Record {
    Status status = Status::not_solved;
    double c = 1.0, condition = infinity;
    bool is_symmetric = true, shares_L1 = false;
    Vector E, x, z;
    Matrix L1, L2;
    Vector T, W, G;
    Integers strong, weak;
};

struct Outcome {
    Status status = Status::not_solved;
    std::int32_t iterations = 0;
    double condition = infinity, margin = infinity;
};

// Where the solver starts: the active set of a point, (x, y, z, z_lb, z_ub); no data: nowhere.
struct Start {
    Block x, z, z_lb, z_ub;

    bool present() const { return x.present(); }
};

// The tolerance of dcl/border.py for eigenvalues of P below zero, in float32 that of its rounding.
inline double psd_tolerance(const Call& call) {
    return call.single ? std::max(1e-9, 8.0 * static_cast<double>(call.n) * 1.1920928955078125e-7) : 1e-9;
}

// P (scaled) as its Cholesky factor where it is definite; else, is it positive semidefinite?
struct Definiteness {
    bool definite = false, semidefinite = false;

    void decide(const Call& call, const Matrix& P, Matrix& L, Matrix& scratch) {
        const double size = magnitude(P.diagonal());
        L.resize(P.rows(), P.cols());
        L.triangularView<Eigen::Lower>() = P;
        semidefinite = definite = size > 0.0 && cholesky(L, core::definite * size);
        if (definite) return;
        scratch = P;
        scratch.diagonal().array() += 0.1 * psd_tolerance(call) * size + std::numeric_limits<double>::min();
        semidefinite = cholesky(scratch);
    }
};

// What depends on shared data only, made once per call.
struct Shared {
    bool has_P = false, has_general = false, has_elimination = false;
    Curvature curvature;
    Matrix P, L;
    Definiteness kind;
    General general;
    Elimination elimination;
    double c = 1.0;

    void prepare(const Call& call) {
        has_P = call.P.shared() && call.batch > 0;
        if (has_P) {
            curvature.load(call, 0);
            double largest = curvature.size, smallest = infinity;
            Vector q(call.n);
            for (Index i = 0; i < (call.q.shared() ? 1 : call.batch); ++i) {
                read(call, call.q, i, q.head(call.n));
                const double size = std::max(curvature.size, magnitude(q));
                largest = std::max(largest, size);
                smallest = std::min(smallest, size);
                has_P = has_P && all_finite(q);
            }
            has_P = has_P && curvature.is_finite && largest <= same_size * smallest;
            c = unit(largest);
        }
        if (has_P) {
            P = c * curvature.P;
            Matrix scratch;
            kind.decide(call, P, L, scratch);
        }
        has_general = call.shares_matrices() && call.batch > 0;
        if (has_general) general.load(call, 0);
        if (has_P && has_general && kind.definite && general.is_finite) {
            has_elimination = elimination.compute(L, general.C, call.p, call.lower() + call.upper() > 0);
        }
    }
};

struct Worker {
    Program program;
    Point point;
    Residuals residuals;

    Outcome solve(const Call& call, const Shared& shared, Index i, const Start& start, double mu, Record& record) {
        Outcome out;
        out.status = load(call, shared, i);
        if (out.status != Status::certified) return out;
        point.reset(program);
        record.c = program.c;
        record.is_symmetric = shared.has_P ? shared.curvature.is_symmetric : curvature_.is_symmetric;
        read_start(call, start, i);
        Certificate certificate;
        pivoting_.steps = 0;
        bool solved = kind_->definite && pivot(shared, record);
        out.iterations = static_cast<std::int32_t>(pivoting_.steps);
        if (solved && mu == 0.0) certificate = certifier_(program, factor_, point, residuals);
        if (solved && mu > 0.0) certifier_.measure(program, point, residuals);
        if (solved && mu == 0.0 && lacks_digits(certificate.status) && refactor(record)) {
            certificate = certifier_(program, factor_, point, residuals);
        }
        if (!solved || (mu == 0.0 && lacks_digits(certificate.status))) {
            solved = interior(record, certificate) || mu > 0.0;
            out.iterations += interior_.iterations;
        }
        if (mu > 0.0) {
            certificate = on_path(mu * program.c, record);
            out.iterations += path_.steps;
        }
        out.status = certificate.status;
        out.condition = certificate.condition;
        out.margin = certificate.margin;
        if (out.status == Status::certified) keep(record, out);
        return out;
    }

private:
    Curvature curvature_;
    Matrix P_, L_, scratch_, second_;
    General general_;
    Elimination elimination_;
    Definiteness own_kind_;
    const Definiteness* kind_ = nullptr;
    const Matrix* L_in_use_ = nullptr;
    Pivoting pivoting_;
    InteriorPoint interior_;
    Path path_;
    Factor factor_;
    Certifier certifier_;
    Vector x_0_, u_, a_0_, start_x_, start_z_, start_s_, minus_;
    Integers weak_;
    bool warm_ = false;

    // The program of instance i in its units; certified where it can be worked with.
    Status load(const Call& call, const Shared& shared, Index i) {
        program.load_vectors(call, i);
        if (!shared.has_general) general_.load(call, i);
        program.general = shared.has_general ? &shared.general : &general_;
        if (!program.is_finite || !program.general->is_finite) return Status::not_finite;
        if (shared.has_P) {
            program.P = &shared.P;
            program.is_zero = shared.curvature.is_zero;
            program.scale(shared.c);
            kind_ = &shared.kind;
            L_in_use_ = &shared.L;
        } else {
            curvature_.load(call, i);
            if (!curvature_.is_finite) return Status::not_finite;
            program.scale(unit(std::max(curvature_.size, magnitude(program.q))));
            P_ = program.c * curvature_.P;
            program.P = &P_;
            program.is_zero = curvature_.is_zero;
            own_kind_.decide(call, P_, L_, scratch_);
            kind_ = &own_kind_;
            L_in_use_ = &L_;
        }
        return kind_->semidefinite ? Status::certified : Status::not_psd;
    }

    // z and s of the caller's point in the program's units.
    void read_start(const Call& call, const Start& start, Index i) {
        warm_ = start.present();
        if (!warm_) return;
        start_x_.resize(call.n);
        start_z_.setZero(program.rows());
        start_s_.setZero(program.rows());
        read(call, start.x, i, start_x_.head(call.n));
        if (call.m > 0) read(call, start.z, i, start_z_.segment(call.p, call.m));
        if (call.lower() > 0) read(call, start.z_lb, i, start_z_.segment(program.first_lower(), call.n));
        if (call.upper() > 0) read(call, start.z_ub, i, start_z_.segment(program.first_upper(), call.n));
        program.times(start_x_, start_s_);
        for (Index row = program.p; row < program.rows(); ++row) {
            start_s_(row) = program.side(row) - start_s_(row);
            start_z_(row) *= program.c / program.row_unit(row);
            if (!program.finite[static_cast<std::size_t>(row)]) start_z_(row) = start_s_(row) = 0.0;
        }
        warm_ = all_finite(start_x_) && all_finite(start_s_) && all_finite(start_z_);
    }

    bool starts_active(Index row) const {
        return warm_ && program.finite[static_cast<std::size_t>(row)] && start_z_(row) > 0.0 && start_z_(row) > start_s_(row);
    }

    // The active set by pivoting; its point and factor.  False where none was found.
    bool pivot(const Shared& shared, Record& record) {
        const Index n = program.n, p = program.p, m = program.m;
        const bool bounds = program.lower + program.upper > 0;
        const Elimination* known = &shared.elimination;
        if (!shared.has_elimination) {
            if (p > n || !elimination_.compute(*L_in_use_, program.C(), p, bounds)) return false;
            known = &elimination_;
        }
        const Matrix& L = *L_in_use_;
        const Index r = known->N.rows();
        x_0_ = -program.q;
        solve_lower(L, x_0_);
        solve_upper(L, x_0_);
        a_0_.resize(r);
        a_0_.head(m).noalias() = program.C().rightCols(m).transpose() * x_0_;
        if (bounds) a_0_.tail(n) = x_0_;
        if (p > 0) {
            u_.noalias() = program.C().leftCols(p).transpose() * x_0_;
            u_ -= program.side.head(p);
            solve_lower(known->L_A, u_);
            a_0_.noalias() -= known->Y.transpose() * u_;
        }
        set_sides(r);
        if (!pivoting_.solve(known->N, a_0_, n - p)) return false;
        take_active(*known, L, shared, record);
        return true;
    }

    // lo, hi and the state in which pivoting starts
    void set_sides(Index r) {
        const Index p = program.p, m = program.m, n = program.n;
        pivoting_.lo.setConstant(r, -infinity);
        pivoting_.hi.setConstant(r, infinity);
        pivoting_.state.assign(static_cast<std::size_t>(r), 0);
        for (Index i = 0; i < m; ++i) {
            if (!program.finite[static_cast<std::size_t>(p + i)]) continue;
            pivoting_.hi(i) = program.side(p + i);
            if (starts_active(p + i)) pivoting_.state[static_cast<std::size_t>(i)] = 1;
        }
        for (Index j = 0; j < n && r > m; ++j) {
            const Index low = program.first_lower() + j, high = program.first_upper() + j;
            auto& state = pivoting_.state[static_cast<std::size_t>(m + j)];
            if (program.lower > 0 && program.finite[static_cast<std::size_t>(low)]) {
                pivoting_.lo(m + j) = -program.side(low);
                if (starts_active(low)) state = -1;
            }
            if (program.upper > 0 && program.finite[static_cast<std::size_t>(high)]) {
                pivoting_.hi(m + j) = program.side(high);
                if (starts_active(high)) state = 1;
            }
        }
    }

    // From the active set of `pivoting_` to the point, and to L1 = L and L2 = [[L_A, 0], [Y', L_F]], rows with their signs.
    void take_active(const Elimination& known, const Matrix& L, const Shared& shared, Record& record) {
        const Index p = program.p, m = program.m, f = static_cast<Index>(pivoting_.active.size()), k = p + f;
        point.strong.resize(static_cast<std::size_t>(k));
        point.y.resize(k);
        record.L2.resize(k, k);
        Matrix& L2 = record.L2;
        L2.topLeftCorner(p, p) = known.L_A;
        Vector& y = u_;
        if (p == 0) y.resize(0);
        for (Index i = 0; i < p; ++i) point.strong[static_cast<std::size_t>(i)] = i;
        for (Index j = 0; j < f; ++j) {
            const Index row = pivoting_.active[static_cast<std::size_t>(j)];
            const int state = pivoting_.state[static_cast<std::size_t>(row)];
            const double sign = state;
            Index stacked = p + row;
            if (row >= m) stacked = state < 0 ? program.first_lower() + row - m : program.first_upper() + row - m;
            point.strong[static_cast<std::size_t>(p + j)] = stacked;
            point.y(p + j) = sign * pivoting_.w(j);
            if (p > 0) {
                y -= pivoting_.w(j) * known.Y.col(row);
                L2.row(p + j).head(p) = sign * known.Y.col(row).transpose();
            }
            for (Index i = 0; i <= j; ++i) {
                const double other = pivoting_.state[static_cast<std::size_t>(pivoting_.active[static_cast<std::size_t>(i)])];
                L2(p + j, p + i) = sign * other * pivoting_.L(j, i);
            }
        }
        if (p > 0) solve_upper(known.L_A, y);
        point.y.head(p) = y;
        factor_.strong.gather(program, point.strong);
        factor_.weak.reset(program.n, 0);
        factor_.T.setZero(k);
        factor_.W.resize(0);
        factor_.G.resize(0);
        factor_.set(program.P->data(), program.n, 1.0);
        factor_.set_factors(L.data(), L2.data());
        record.shares_L1 = shared.has_P;
        // x = -P^-1 (q + B'y)
        point.x = -program.q;
        minus_ = -point.y;
        factor_.strong.add_transposed(minus_, point.x);
        solve_lower(L, point.x);
        solve_upper(L, point.x);
    }
    Vector scaled_;

    static bool lacks_digits(Status status) { return status == Status::residual || status == Status::condition; }

    // The factor of the point's active set made anew: where P is nearly singular its own Cholesky factor loses digits that
    // the pair of factor.hpp keeps.
    bool refactor(Record& record) {
        const Index k = static_cast<Index>(point.strong.size());
        record.shares_L1 = false;
        factor_.set(program.P->data(), program.n, 1.0);
        factor_.strong.gather(program, point.strong);
        factor_.weak.reset(program.n, 0);
        factor_.T.setZero(k);
        factor_.W.resize(0);
        record.L1.resize(program.n, program.n);
        record.L2.resize(k, k);
        if (k > program.n || !factor_.compute(record.L1, record.L2, scratch_)) return false;
        factor_.set_factors(record.L1.data(), record.L2.data());
        return true;
    }

    // The active set by the interior point; false where it proposes none that stands.
    bool interior(Record& record, Certificate& certificate) {
        record.shares_L1 = false;
        interior_.iterations = 0;
        const auto stands = [&](const Vector& x, const Vector& y, const Vector& z, const Vector& s) {
            point.x = x;
            point.z = z;
            point.z.head(program.p) = y;
            point.s = s;
            certificate = attempt(record);
            return certificate.status == Status::certified || certificate.status == Status::tie ||
                   certificate.status == Status::condition || certificate.status == Status::far;
        };
        if (warm_ && stands(start_x_, start_z_.head(program.p), start_z_, start_s_)) return true;
        if (interior_.solve(program, stands)) return true;
        // for the central path: the last iterate
        point.x = interior_.x;
        point.z = interior_.z;
        point.z.head(program.p) = interior_.y;
        point.s = interior_.s;
        for (Index row = program.p; row < program.rows(); ++row) {
            if (!program.finite[static_cast<std::size_t>(row)]) point.z(row) = point.s(row) = 0.0;
        }
        point.s.head(program.p).setZero();
        return false;
    }

    // The equations of the point's rows with z > s, changed as Newton's method on F changes them, for a few rounds.
    Certificate attempt(Record& record) {
        Certificate out;
        for (int round = 0; round < 4; ++round) {
            point.strong.clear();
            for (Index i = 0; i < program.rows(); ++i) {
                if (i < program.p || (program.finite[static_cast<std::size_t>(i)] && point.z(i) > point.s(i))) {
                    point.strong.push_back(i);
                }
            }
            const Index k = static_cast<Index>(point.strong.size());
            out.status = Status::dependent;
            if (k > program.n) return out;
            point.y.resize(k);
            for (Index i = 0; i < k; ++i) point.y(i) = point.z(point.strong[static_cast<std::size_t>(i)]);
            if (!refactor(record)) return out;
            newton_step(program, factor_, point, certifier_.step, false);
            certifier_.measure(program, point, residuals);
            if (signs_hold()) return certifier_(program, factor_, point, residuals);
            out.status = Status::not_solved;
            for (Index i = program.p; i < program.rows(); ++i) {
                // an active row stays if z > 0, another one enters if s < 0
                if (point.s(i) < 0.0) point.z(i) = -point.s(i), point.s(i) = 0.0;
            }
        }
        return out;
    }

    bool signs_hold() const {
        for (Index i = program.p; i < program.rows(); ++i) {
            if (point.s(i) < 0.0 || point.z(i) < 0.0) return false;
        }
        return true;
    }

    // x(mu), its factor and verdict.
    Certificate on_path(double mu, Record& record) {
        Certificate out;
        out.status = Status::not_solved;
        if (!path_.follow(program, point, mu, kind_->definite)) return out;
        record.shares_L1 = false;
        double moved = infinity, smoothing = 0.0;
        for (Index i = program.p; i < program.rows(); ++i) smoothing += program.finite[static_cast<std::size_t>(i)] ? mu : 0.0;
        out.status = Status::dependent;
        for (int round = 0; round < 6 && !(moved <= 0.1 * settled && residuals.worst() <= on_path_accurate); ++round) {
            // a factor serves for two steps
            if (round % 2 == 0 && !factor_at_path(record)) return out;
            moved = path_.sharpen(program, factor_, point.strong, weak_, point, mu, certifier_.step);
            residuals.products(program, point.x, point.z);
            residuals.measure(program, point.x, point.z, point.s, smoothing);
        }
        if (all_finite(point.x)) Path::weigh(program, point, factor_, point.strong, weak_);
        out.status = Status::residual;
        if (!(residuals.worst() <= accurate) || !(moved <= 0.1 * settled)) return out;
        out.status = Status::far;
        if (is_far(program, point)) return out;
        out.condition = certifier_.condition.estimate(factor_);
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.finite[static_cast<std::size_t>(i)]) {
                out.margin = std::min(out.margin, std::abs(point.z(i) - point.s(i)));
            }
        }
        out.status = out.condition <= conditioned &&
                             out.condition * std::max(residuals.primal, residuals.dual) <= error_limit
                         ? Status::certified
                         : Status::condition;
        return out;
    }
    static constexpr double on_path_accurate = 1e-12;

    bool factor_at_path(Record& record) {
        Path::split(program, point, factor_, point.strong, weak_);
        factor_.set(program.P->data(), program.n, 1.0);
        const Index k = factor_.strong.size();
        record.L1.resize(program.n, program.n);
        record.L2.resize(k, k);
        if (!factor_.compute(record.L1, record.L2, scratch_)) return false;
        factor_.set_factors(record.L1.data(), record.L2.data());
        return true;
    }

    void keep(Record& record, const Outcome& out) {
        record.status = out.status;
        record.condition = out.condition;
        record.E = program.general->E;
        record.x = point.x;
        record.z = point.z;
        record.T = factor_.T;
        record.W = factor_.W;
        record.G = factor_.G;
        record.strong = point.strong;
        if (factor_.weak.size() > 0) record.weak = weak_;
        // L1 was made in the record where the interior point or the path made it, else it is that of P
        if (!record.shares_L1 && factor_.L1.data() != record.L1.data()) record.L1 = *L_in_use_;
    }
};

}  // namespace core
