// One instance: data, active set, Newton, verdict.
//
//     P > 0:    definite.hpp proposes the active set, whose factor comes with it
//     P + A'G A > 0:    the same for minimize 1/2 x'(P + A'G A)x + (q - A'G b)'x, which has the same solutions where A x = b
//     else, or where that gives up:    interior_point.hpp proposes, factor.hpp factors
//     certify.hpp decides; mu > 0: path.hpp goes on from there
#pragma once

#include "definite.hpp"
#include "interior_point.hpp"
#include "path.hpp"
#include "shared.hpp"

namespace core {

struct Worker {
    Program program;
    Point point;
    Residuals residuals;
    Record unkept;  // where no derivative will be asked for

    Outcome solve(const Call& call, const Shared& shared, Index i, const StartBlocks& from, double mu, Record& record) {
        Outcome out;
        out.status = load(call, shared, i, record);
        if (out.status != Status::certified) return out;
        point.reset(program);
        record.c = program.c;
        record.is_symmetric = shared.has_P ? shared.curvature.is_symmetric : curvature_.is_symmetric;
        start_.read_from(call, from, i, program);
        Certificate verdict = exact(shared, mu > 0.0, record, out.iterations);
        if (mu > 0.0) verdict = on_path(mu * program.c, record, out.iterations);
        out.status = verdict.status;
        out.condition = verdict.condition;
        out.margin = verdict.margin;
        if (out.status == Status::certified) {
            keep(record, out);
        } else {
            record.L1.resize(0, 0);
            record.L2.resize(0, 0);
        }
        return out;
    }

private:
    Curvature curvature_;
    Matrix P_, scratch_;
    General general_;
    Definiteness own_kind_;
    const Definiteness* kind_ = nullptr;
    const Matrix* L_in_use_ = nullptr;  // of P where that is definite, until another factor takes its place in the record
    Start start_;
    DefiniteSolver definite_;
    Program augmented_;
    Matrix augmented_P_, augmented_L_, augmented_L2_, weighted_;
    Vector weights_;
    InteriorPoint interior_;
    Path path_;
    Factor factor_;
    Certifier certifier_;
    Integers weak_;

    // The program of instance i in its units; certified where it can be worked with.
    // L of its P goes into the record where the batch does not share it.
    Status load(const Call& call, const Shared& shared, Index i, Record& record) {
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
            own_kind_.decide(P_, record.L1, scratch_);
            kind_ = &own_kind_;
            L_in_use_ = &record.L1;
        }
        return kind_->is_semidefinite ? Status::certified : Status::not_psd;
    }

    // The exact point and its verdict; as the start of a path it gets none.
    Certificate exact(const Shared& shared, bool starts_path, Record& record, std::int32_t& iterations) {
        Certificate verdict;
        bool found = false;
        if (kind_->is_definite) {
            const Elimination* known = shared.has_elimination ? &shared.elimination : nullptr;
            found = definite_.solve(program, *L_in_use_, known, start_, point, record.L2, factor_);
            record.shares_L1 = shared.has_P;
            iterations += static_cast<std::int32_t>(definite_.pivoting.steps);
        }
        if (found && starts_path) {
            certifier_.measure(program, point, residuals);
            return verdict;
        }
        if (found) verdict = certifier_(program, factor_, point, residuals);
        // where P is nearly singular its own Cholesky factor loses digits that the pair of factor.hpp keeps
        if (found && lacks_digits(verdict.status) && refactor(record)) {
            verdict = certifier_(program, factor_, point, residuals);
        }
        if (!found || lacks_digits(verdict.status)) interior(record, verdict, iterations);
        return verdict;
    }

    static bool lacks_digits(Status status) { return status == Status::residual || status == Status::condition; }

    // The factor of the point's active set, made in the record.
    bool refactor(Record& record) {
        factor_.at_active_set(program, point.strong);
        return factor_in(record);
    }

    bool factor_in(Record& record) {
        const Index k = factor_.strong.size();
        record.shares_L1 = false;
        if (L_in_use_ == &record.L1) L_in_use_ = nullptr;
        record.L1.resize(program.n, program.n);
        record.L2.resize(k, k);
        if (!factor_.compute(record.L1, record.L2, scratch_)) return false;
        factor_.set_factors(record.L1.data(), record.L2.data(), true);
        return true;
    }

    // The active set by the start, or by the interior point; where none stands the point is the last iterate.
    void interior(Record& record, Certificate& verdict, std::int32_t& iterations) {
        const auto stands = [&](const Vector& x, const Vector& y, const Vector& z, const Vector& s) {
            point.x = x;
            point.z = z;
            point.z.head(program.p) = y;
            point.s = s;
            verdict = attempt(record);
            return is_decided(verdict.status);
        };
        if (start_.is_there && stands(start_.x, start_.z.head(program.p), start_.z, start_.s)) return;
        if (!kind_->is_definite && is_solved_augmented(iterations)) {
            verdict = attempt(record);
            if (is_decided(verdict.status)) return;
        }
        const bool found = interior_.solve(program, stands);
        iterations += interior_.iterations;
        if (found) return;
        point.x = interior_.x;
        point.z = interior_.z;
        point.z.head(program.p) = interior_.y;
        point.s = interior_.s;
        for (Index row = program.p; row < program.rows(); ++row) {
            if (!program.binds(row)) point.z(row) = point.s(row) = 0.0;
        }
        point.s.head(program.p).setZero();
    }

    static bool is_decided(Status status) {
        return status == Status::certified || status == Status::tie || status == Status::condition || status == Status::far;
    }

    // The point by pivoting where P + A'G A is definite (G as in factor.hpp); its factor serves for nothing else.
    bool is_solved_augmented(std::int32_t& iterations) {
        const Index n = program.n, p = program.p;
        if (program.is_zero || p == 0 || p > n || program.cap.size() > 0) return false;
        const auto A = program.C().leftCols(p);
        const double size = magnitude(program.P->diagonal());
        weights_ = A.colwise().squaredNorm().transpose();
        for (Index i = 0; i < p; ++i) weights_(i) = size / (weights_(i) > 0.0 ? weights_(i) : 1.0);
        weighted_ = A * weights_.cwiseSqrt().asDiagonal();
        augmented_P_ = *program.P;
        augmented_P_.selfadjointView<Eigen::Lower>().rankUpdate(weighted_);
        augmented_L_.resize(n, n);
        augmented_L_.triangularView<Eigen::Lower>() = augmented_P_;
        if (!cholesky(augmented_L_, definite * size)) return false;
        augmented_ = program;
        augmented_.P = &augmented_P_;
        augmented_.q.noalias() -= A * weights_.cwiseProduct(program.side.head(p));
        const bool found = definite_.solve(augmented_, augmented_L_, nullptr, start_, point, augmented_L2_, factor_);
        iterations += static_cast<std::int32_t>(definite_.pivoting.steps);
        if (found) certifier_.measure(program, point, residuals);
        return found;
    }

    // The equations of the point's rows with z > s, changed as Newton's method on F changes them, for a few rounds.
    Certificate attempt(Record& record) {
        Certificate out;
        for (int round = 0; round < 4; ++round) {
            point.list_strong(program);
            const Index k = count(point.strong);
            out.status = Status::dependent;
            if (k > program.n) return out;
            point.y.resize(k);
            for (Index i = 0; i < k; ++i) point.y(i) = point.z(point.strong[i]);
            if (!refactor(record)) return out;
            newton_step(program, factor_, point, certifier_.step, false);
            certifier_.measure(program, point, residuals);
            if (point.signs_hold(program)) return certifier_(program, factor_, point, residuals);
            out.status = Status::not_solved;
            for (Index i = program.p; i < program.rows(); ++i) {
                // an active row stays if z > 0, another one enters if s < 0
                if (point.s(i) < 0.0) point.z(i) = -point.s(i), point.s(i) = 0.0;
            }
        }
        return out;
    }

    // x(mu), its factor and verdict.
    Certificate on_path(double mu, Record& record, std::int32_t& iterations) {
        Certificate out;
        const bool has_L = kind_->is_definite && L_in_use_ != nullptr;
        if (has_L) {
            factor_.set(program.P->data(), program.n, 1.0);
            factor_.set_first(L_in_use_->data(), true);
        }
        const Dual* const dual = has_L && definite_.dual.known != nullptr ? &definite_.dual : nullptr;
        const bool came_near = path_.follow(program, point, mu, factor_, dual);
        iterations += path_.steps;
        if (!came_near) return out;
        if (path_.in_multipliers && (program.lower == 0 || program.upper == 0)) {
            weak_.clear();
            record.shares_L1 = L_in_use_ != &record.L1;
            out = settle(mu, [&] { return Path::join(program, point, *dual->known, record.L2, factor_); });
            if (out.status == Status::certified) return out;
        }
        return settle(mu, [&] {
            Path::split(program, point, factor_, weak_);
            return factor_in(record);
        });
    }

    // The last steps of the path, and the verdict.  make_factor: at the point.
    template <class MakeFactor>
    Certificate settle(double mu, MakeFactor&& make_factor) {
        Certificate out;
        double moved = infinity;
        bool is_there = false;
        for (int round = 0; round < 6 && !is_there; ++round) {
            if (round % 2 == 0) {  // a factor serves for two steps
                out.status = Status::dependent;
                if (!make_factor()) return out;
            }
            moved = path_.sharpen(program, factor_, weak_, point, mu, certifier_.step);
            if (!(moved <= 0.1 * settled)) continue;  // one more step in any case
            residuals.products(program, point.x, point.z);
            residuals.measure(program, point.x, point.z, point.s, mu * static_cast<double>(program.inequalities()));
            is_there = residuals.worst() <= 0.1 * accurate;
        }
        out.status = Status::residual;
        if (!(moved <= 0.1 * settled) || !(residuals.worst() <= accurate)) return out;
        Path::weigh(program, point, factor_, weak_);
        out.status = Status::far;
        if (is_far(program, point)) return out;
        // as at mu = 0: the estimate only where the bound says too little
        out.condition = Condition::bound_on_path(factor_);
        if (!(out.condition <= modest)) out.condition = certifier_.condition.estimate(factor_);
        for (Index i = program.p; i < program.rows(); ++i) {
            if (program.binds(i)) out.margin = std::min(out.margin, std::abs(point.z(i) - point.s(i)));
        }
        const bool is_sharp = out.condition * std::max(residuals.primal, residuals.dual) <= error_limit;
        out.status = out.condition <= conditioned && is_sharp ? Status::certified : Status::condition;
        return out;
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
    }
};

}  // namespace core
