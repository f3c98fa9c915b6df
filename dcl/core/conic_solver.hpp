// One cone program: data, smoothing path, Newton's method at mu = 0 or at the mu asked for, verdict.
//
//     a start that is close:    Newton's method from there
//     else:                     conic_path.hpp from (0, 0), or from the start, down to a small mu; Newton's method from there,
//                               and from a smaller mu where that fails
#pragma once

#include "conic_certify.hpp"
#include "conic_data.hpp"
#include "conic_path.hpp"
#include "record.hpp"

namespace core {

// What an instance leaves for its derivative, in the units of the program.
struct ConicRecord {
    Status status = Status::not_solved;
    double c = 1.0, condition = infinity, mu = 0.0;
    bool is_symmetric = true;
    Vector E, x, z, s;
    Cones cones;  // at the point, with the eigenvectors that the rows are made of
    Matrix L1, L2;
    Vector T, W, G;
    Rows strong_rows, weak_rows;
    Integers strong, weak;
};

// Where to start: x, and the multipliers of the zero rows and of the others; no x: nowhere.
struct ConicStart {
    Block x, y, z;
};

struct ConicWorker {
    Program program;
    ConicPoint point;
    Residuals residuals;

    Outcome solve(const ConicCall& call, const ConicShared& shared, Index i, const ConicStart& start, double mu,
                  ConicRecord& record) {
        Outcome out;
        out.status = load(call, shared, i);
        if (out.status != Status::certified) return out;
        mu *= program.c;
        steps_ = 0;
        path_.steps = 0;
        Certificate verdict = run(call, i, start, mu, record);
        out.status = verdict.status;
        out.condition = verdict.condition;
        out.margin = verdict.margin;
        out.iterations = static_cast<std::int32_t>(path_.steps + steps_);
        record.status = out.status;
        if (out.status == Status::certified) {
            keep(record, verdict, mu);
        } else {
            record.L1.resize(0, 0);
            record.L2.resize(0, 0);
        }
        return out;
    }

private:
    // where the path ends that leads to an exact point, and further ends if Newton's method fails there
    static constexpr double ends[] = {1e-5, 1e-7, 1e-9, 1e-11};
    // where the path begins: at a start of the caller, and where the usual beginning at 1 fails
    static constexpr double near_start = 1e-3, high = 100.0;
    static constexpr int most_newton = 12;
    Cones cones_;
    Curvature curvature_;
    Matrix P_, L_, scratch_;
    General general_;
    Grams own_grams_;
    const Grams* grams_ = nullptr;
    Definiteness kind_;
    bool is_symmetric_ = true;
    ConicPath path_;
    ConicNewton newton_;
    ConicCertifier certify_;
    ConicPoint before_;
    int steps_ = 0;

    Status load(const ConicCall& call, const ConicShared& shared, Index i) {
        cones_ = call.cones;
        program.load_vectors(call.data, i);
        if (!shared.has_general) load_rows(call, i, general_);
        program.general = shared.has_general ? &shared.general : &general_;
        if (!program.is_finite || !program.general->is_finite || program.inequalities() != program.m) return Status::not_finite;
        bool is_semidefinite = true;
        if (shared.objective.has_P) {
            program.P = &shared.objective.P;
            program.is_zero = shared.objective.curvature.is_zero;
            program.scale(shared.objective.c);
            is_semidefinite = shared.objective.kind.is_semidefinite;
            is_symmetric_ = shared.objective.curvature.is_symmetric;
        } else {
            curvature_.load(call.data, i);
            if (!curvature_.is_finite) return Status::not_finite;
            program.scale(unit(std::max(curvature_.size, magnitude(program.q))));
            P_ = program.c * curvature_.P;
            program.P = &P_;
            program.is_zero = curvature_.is_zero;
            kind_.decide(P_, L_, scratch_);
            is_semidefinite = kind_.is_semidefinite;
            is_symmetric_ = curvature_.is_symmetric;
        }
        if (!is_semidefinite) return Status::not_psd;
        if (!shared.has_general) own_grams_.compute(cones_, program.C());
        grams_ = shared.has_general ? &shared.grams : &own_grams_;
        return Status::certified;
    }

    Certificate run(const ConicCall& call, Index i, const ConicStart& start, double mu, ConicRecord& record) {
        Certificate verdict;
        if (start.x.present() && begin(call, i, start)) {
            before_.x = point.x;
            before_.v = point.v;
            if (approach(mu, record)) {
                verdict = certify_(program, cones_, newton_, point, mu, residuals);
                if (verdict.status == Status::certified) return verdict;
            }
            point.x = before_.x;
            point.v = before_.v;
            verdict = follow(std::max(near_start, mu), false, mu, record);
            if (verdict.status == Status::certified) return verdict;
        }
        from_nowhere();
        verdict = follow(std::max(1.0, mu), false, mu, record);
        if (verdict.status != Status::not_solved) return verdict;
        from_nowhere();
        return follow(std::max(high, mu), true, mu, record);
    }

    void from_nowhere() {
        point.x.setZero(program.n);
        point.v.setZero(program.rows());
    }

    // Along the path from mu = `first`, then Newton's method.
    Certificate follow(double first, bool is_patient, double mu, ConicRecord& record) {
        Certificate verdict;
        path_.mu = first;
        path_.is_patient = is_patient;
        for (const double end : ends) {
            const double last = mu > 0.0 ? mu : end;
            if (!path_.descend(program, cones_, *grams_, point, last)) return verdict;
            before_.x = point.x;
            before_.v = point.v;
            if (approach(mu, record)) {
                verdict = certify_(program, cones_, newton_, point, mu, residuals);
                if (verdict.status != Status::residual) return verdict;
            }
            if (mu > 0.0) return verdict;
            point.x = before_.x;
            point.v = before_.v;
        }
        return verdict;
    }

    // Newton's method; does it converge?  The factor is that of the point then, in the eigenvectors of `cones_`: those of
    // another point nearby may have other signs, and where eigenvalues are equal other directions.
    bool approach(double mu, ConicRecord& record) {
        point.evaluate(program, cones_, mu);
        for (int k = 0; k < most_newton; ++k) {
            if (!newton_.refactor(program, cones_, *grams_, record.L1, record.L2)) return false;
            newton_.find_step(program, cones_, point);
            if (newton_.moved <= 1e-13) return true;
            const double before = point.size;
            newton_.take_step(program, cones_, mu, point);
            ++steps_;
            if (point.size < before) continue;
            // what is left is rounding, or Newton's method does not converge
            return newton_.moved <= 0.1 * settled && newton_.refactor(program, cones_, *grams_, record.L1, record.L2);
        }
        return false;
    }

    // v = z - s at the caller's point
    bool begin(const ConicCall& call, Index i, const ConicStart& start) {
        const Index p = program.p, m = program.m;
        from_nowhere();
        read(call.data, start.x, i, point.x.head(program.n));
        if (p > 0 && start.y.present()) read(call.data, start.y, i, point.v.head(p));
        if (m > 0 && start.z.present()) read(call.data, start.z, i, point.v.tail(m));
        for (Index k = 0; k < program.rows(); ++k) point.v(k) *= program.c / program.general->E(k);
        if (program.rows() > 0) point.v.noalias() += program.C().transpose() * point.x;
        point.v -= program.side;
        if (all_finite(point.x) && all_finite(point.v)) return true;
        point.x.setZero();
        point.v.setZero();
        return false;
    }

    void keep(ConicRecord& record, const Certificate& verdict, double mu) {
        record.condition = verdict.condition;
        record.c = program.c;
        record.mu = mu;
        record.is_symmetric = is_symmetric_;
        record.E = program.general->E;
        record.x = point.x;
        record.cones = cones_;
        record.z = point.z;
        record.s = point.s;
        record.T = newton_.factor.T;
        record.W = newton_.factor.W;
        record.G = newton_.factor.G;
        record.strong = newton_.assembly.strong;
        record.weak = newton_.assembly.weak;
        record.strong_rows = newton_.factor.strong;
        record.weak_rows = newton_.factor.weak;
    }
};

}  // namespace core
