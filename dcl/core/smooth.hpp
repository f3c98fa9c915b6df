// Programs with smooth terms in place of the cones of their epigraphs, solved by Newton's method:
//
//     minimize 1/2 x'Px + q'x + sum_t lambda_t psi_t(u_t)    subject to   Ax = b,  Gx <= h,  lb <= x <= ub,     u = d - C'x
//
//     relative  psi(y, z) = y log(y/z),  y, z > 0        W = (lambda / y) v v',         v = (1, -y/z)
//     exp       psi(x, y) = y e^(x/y),   y > 0           W = (lambda e^(x/y) / y) v v', v = (1, -x/y)
//     log_sum   psi(u) = log sum e^(u_k)                 W = lambda (diag(p) - p p'),   p = e^(u - psi)
//
// A step from a point u of the domain, which need not be d - C'x (dcl/program/reduction/terms.py says where such programs come from):
//
//     x+ = argmin of the quadratic model   H = P + C W C',   g = q - C (lambda psi' + W (d - u)),      W = lambda psi''
//     u+ = u + l (d - C'x+ - u),    l as long as u+ stays in the domain, and where u = d - C'x, as the objective falls
//
// After a full step u = d - C'x.  What is returned is the model at the last point, whose minimizer is one more step.  It does not
// say that this is a solution: the caller measures that.
#pragma once

#include "cones/assembly.hpp"
#include "pool.hpp"
#include "smooth_terms.hpp"
#include "solver.hpp"

namespace core {

struct SmoothWorker {
    Matrix H;
    Vector g, x, u;
    int steps = 0;

    // The model at the end of the steps, in the caller's units; false where they do not converge.
    bool solve(const SmoothCall& call, Index i, const Block& start) {
        load(call, i, start);
        const bool is_free = free_of_inequalities(call.data);
        int damped = 0;
        for (steps = 0; steps < most_steps; ++steps) {
            if (!model(call)) return false;
            if (!(is_free ? by_equalities() : by_worker(call, i))) return false;
            w_ = d_ - C_.transpose() * next_ - u;  // of a full step
            const double length = step_length(call);
            if (length == 0.0 || (length < 0.1 && ++damped > most_damped)) return false;
            const double size = 1.0 + magnitude(x), moved = magnitude(next_ - x), off = magnitude(w_) / (1.0 + magnitude(u));
            if (length == 1.0) {
                x = next_;
                u = d_ - C_.transpose() * x;
                has_met_ = true;
                if (moved <= settled_at * size && off <= settled_at) return model(call);
            } else {
                x += length * (next_ - x);
                u += length * w_;
            }
            if (!(magnitude(x) <= farthest)) return false;
        }
        return false;
    }

private:
    static constexpr int most_steps = 60, most_damped = 20, halvings = 30;
    static constexpr double settled_at = 1e-7, kept = 0.01, farthest = 1e9, few = 0.25;
    Program program_;
    Curvature curvature_;
    General general_;
    Condensed system_;
    Worker worker_;
    Record record_;
    Matrix C_, scratch_;
    Vector d_, lambda_, next_, y_, w_, gradient_, pull_, trial_x_, trial_u_, mean_, column_;
    std::vector<Integers> seen_;
    bool has_met_ = false;  // is u = d - C'x?

    static bool free_of_inequalities(const Call& call) { return call.m == 0 && !call.lb.present() && !call.ub.present(); }

    void load(const SmoothCall& call, Index i, const Block& start) {
        const Call& data = call.data;
        const Index n = data.n;
        program_.load_vectors(data, i);
        general_.load(data, i);
        program_.general = &general_;
        curvature_.load(data, i);
        program_.P = &H;
        program_.scale(1.0);
        C_.resize(n, call.tails);
        d_.resize(call.tails);
        lambda_.resize(count(call.terms));
        read(data, call.C, i, C_.leftCols(call.tails));
        read(data, call.d, i, d_.head(call.tails));
        read(data, call.lambda, i, lambda_.head(lambda_.size()));
        x.setZero(n);
        if (start.present()) read(data, start, i, x.head(n));
        u = d_ - C_.transpose() * x;
        for (const SmoothTerm& term : call.terms) {
            if (term.contains(u)) continue;
            for (Index k = term.kind == Smooth::exp ? 1 : 0; k < 2; ++k) {
                if (!(u(term.first + k) > 0.0)) u(term.first + k) = 1.0;
            }
        }
        has_met_ = false;
        see(call);
    }

    // The variables of each term.
    void see(const SmoothCall& call) {
        seen_.resize(call.terms.size());
        for (std::size_t t = 0; t < seen_.size(); ++t) {
            const auto columns = C_.middleCols(call.terms[t].first, call.terms[t].size);
            seen_[t].clear();
            for (Index j = 0; j < C_.rows(); ++j) {
                if ((columns.row(j).array() != 0.0).any()) seen_[t].push_back(j);
            }
        }
    }

    // H and g at u; false where they are not finite.
    bool model(const SmoothCall& call) {
        const Index n = program_.n;
        H = curvature_.P;
        gradient_.resize(call.tails);
        pull_.resize(call.tails);  // lambda psi' + W (d - u)
        if (scratch_.rows() != n || scratch_.cols() < call.tails) scratch_.resize(n, call.tails);
        Index used = 0;
        for (Index t = 0; t < count(call.terms); ++t) {
            const SmoothTerm& term = call.terms[t];
            const double lambda = lambda_(t);
            term.value(u, gradient_.data() + term.first);
            if (term.kind == Smooth::log_sum) {
                spread(term, lambda, seen_[t], used);
            } else {
                pair(term, lambda, seen_[t], used);
            }
        }
        if (used > 0) H.selfadjointView<Eigen::Lower>().rankUpdate(scratch_.leftCols(used));
        H.triangularView<Eigen::StrictlyUpper>() = H.transpose();
        g = program_.q;
        if (call.tails > 0) g.noalias() -= C_ * pull_;
        return all_finite(H) && all_finite(g);
    }

    // W = weight v v'
    void pair(const SmoothTerm& term, double lambda, const Integers& seen, Index& used) {
        const Index at = term.first;
        const double one = u(at), two = u(at + 1), ratio = one / two;
        const bool is_relative = term.kind == Smooth::relative;
        const double weight = lambda * (is_relative ? 1.0 / one : std::exp(ratio) / two);
        const double along = (d_(at) - one) - ratio * (d_(at + 1) - two);
        pull_(at) = lambda * gradient_(at) + weight * along;
        pull_(at + 1) = lambda * gradient_(at + 1) - weight * along * ratio;
        column_ = C_.col(at) - ratio * C_.col(at + 1);
        add(weight, seen, used);
    }

    // W = lambda (diag(p) - p p'), the columns of C about their mean
    void spread(const SmoothTerm& term, double lambda, const Integers& seen, Index& used) {
        const auto p = gradient_.segment(term.first, term.size);
        const auto off = d_.segment(term.first, term.size) - u.segment(term.first, term.size);
        const double center = p.dot(off);
        for (Index k = 0; k < term.size; ++k) pull_(term.first + k) = lambda * p(k) * (1.0 + off(k) - center);
        if (term.size == 2) {
            column_ = C_.col(term.first) - C_.col(term.first + 1);
            add(lambda * p(0) * p(1), seen, used);
            return;
        }
        mean_.noalias() = C_.middleCols(term.first, term.size) * p;
        for (Index k = 0; k < term.size; ++k) {
            column_ = C_.col(term.first + k) - mean_;
            add(lambda * p(k), seen, used);
        }
    }

    // H += weight c c' of `column_`
    void add(double weight, const Integers& seen, Index& used) {
        if (static_cast<double>(count(seen)) <= few * static_cast<double>(H.rows())) {
            add_outer(column_, weight, seen, H);
        } else {
            scratch_.col(used++) = std::sqrt(weight) * column_;
        }
    }

    // The model's minimizer into next_ where there are equalities only.
    bool by_equalities() {
        const Index p = program_.p;
        system_.M = H;
        if (!system_.factor(program_)) return false;
        next_ = -g;
        y_ = program_.side.head(p);
        system_.solve(program_, next_, y_);
        return all_finite(next_);
    }

    // The same for all constraints, by the solver of quadratic programs.
    bool by_worker(const SmoothCall& call, Index i) {
        Call one = call.data;
        one.batch = 1;
        one.P = Block{H.data(), 0};
        one.q = Block{g.data(), 0};
        for (Block* const block : {&one.A, &one.b, &one.G, &one.h, &one.lb, &one.ub}) {
            if (!block->present()) continue;
            block->data = static_cast<const double*>(block->data) + i * block->stride;
            block->stride = 0;
        }
        const Outcome outcome = worker_.solve(one, Shared{}, 0, StartBlocks{}, 0.0, record_);
        next_ = worker_.point.x;
        switch (outcome.status) {
            case Status::not_finite:
            case Status::not_psd:
            case Status::not_solved:
            case Status::dependent:
                return false;
            default:
                return all_finite(next_);
        }
    }

    // 1/2 x'Px + q'x + sum of the terms
    double objective(const SmoothCall& call, const Vector& at, ConstVectorRef tails) const {
        double sum = program_.q.dot(at) + 0.5 * at.dot(curvature_.P.selfadjointView<Eigen::Lower>() * at);
        for (Index t = 0; t < count(call.terms); ++t) sum += lambda_(t) * call.terms[t].value(tails, nullptr);
        return sum;
    }

    // l of the header; 0 where the objective falls along no part of the step.
    double step_length(const SmoothCall& call) {
        double length = 1.0;
        for (const SmoothTerm& term : call.terms) length = std::min(length, term.reach(u, w_, kept));
        if (!has_met_) return length;
        const double before = objective(call, x, u);
        // the slope along the step, of the objective at u = d - C'x
        double slope = (curvature_.P.selfadjointView<Eigen::Lower>() * x + program_.q).dot(next_ - x);
        for (Index t = 0; t < count(call.terms); ++t) {
            const SmoothTerm& term = call.terms[t];
            slope += lambda_(t) * gradient_.segment(term.first, term.size).dot(w_.segment(term.first, term.size));
        }
        const double rounding = 1e-13 * (1.0 + std::abs(before));
        for (int k = 0; k < halvings; ++k, length *= 0.5) {
            trial_x_ = x + length * (next_ - x);
            trial_u_ = u + length * w_;
            if (objective(call, trial_x_, trial_u_) <= before + 1e-4 * length * slope + rounding) return length;
        }
        return 0.0;
    }
};

// Where the answers go: H (B, n, n), g (B, n), converged (B) 0 or 1, steps (B).
struct SmoothAnswers {
    double* H = nullptr;
    double* g = nullptr;
    std::int8_t* converged = nullptr;
    std::int32_t* steps = nullptr;
};

inline void solve(const SmoothCall& call, const Block& start, const SmoothAnswers& to, int threads) {
    Pool::run(call.data.batch, threads, [&](Index i, int) {
        thread_local SmoothWorker worker;
        const bool found = worker.solve(call, i, start);
        to.converged[i] = found ? 1 : 0;
        to.steps[i] = worker.steps;
        const Index n = call.data.n;
        Eigen::Map<Matrix> H(to.H + i * n * n, n, n);
        Eigen::Map<Vector> g(to.g + i * n, n);
        if (found) {
            H = worker.H;
            g = worker.g;
        } else {
            H.setIdentity();
            g.setZero();
        }
    });
}

}  // namespace core
