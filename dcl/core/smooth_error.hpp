// How far a point of a program with smooth terms, and its derivative, may be from the exact ones: bounds of first order.
//
//     F_1 = Px + q + B'y - C lambda psi'(u),   F_2 = Bx - b,   u = d - C'x        B: rows that hold, bounds among them
//     K = [[H, B'], [B, 0]],   H = P + C W C',   R = K^-1,   r >= |F| and the rounding of its terms
//
//     |d(x, y)| <= |R| r        |du| <= |C'R_x| r + rounding of u        |dz| <= |W| |du|, of the tails
//
// R is the derivative of (x, y) for changes of (-q, b).  W is a sum of ridges, w c c' with c = C v, and psi''' says how du changes
// each of them, so that what this does to R is known row by row, without a product of norms:
//
//     relative   w = lambda / y          v = (1, -y/z)     dw / w = dy / y               dv_2 = (dy + y/z dz) / z
//     exp        w = lambda e^(x/y) / y  v = (1, -x/y)     dw / w = dv_2 + dy / y        dv_2 = (dx + |x/y| dy) / y
//     log sum    w_k = lambda p_k        c_k = C_k - sum p C,   dw_k / w_k = du_k + sum p du      (the change of c cancels)
//
//     |dR| <= sum of w (dw/w |e| |e|' + dv_2 (|e| |m|' + |m| |e|')) + |R| rho,      e = R_x'c,   m = R_x'C_2
//
// rho: the residual up to which the caller refines derivatives.  Errors are relative to the largest entry of a column, the
// derivative for one right-hand side; a column below 1e-3 of the largest one of its block counts as that.
#pragma once

#include <Eigen/LU>

#include "pool.hpp"
#include "smooth_inverse.hpp"
#include "smooth_terms.hpp"

namespace core {

// Of a call: C, d, lambda as in SmoothCall; x (n), and multipliers y (p), z (m), z_lb, z_ub (n).  noise, added to residuals: of x,
// of the rows of A and G, and of u, or no data.
struct SmoothPoints {
    Block C, d, lambda, x, y, z, z_lb, z_ub, noise, noise_rows, noise_u;
    double refined = 0.0;  // rho, relative to the terms
};

// For `inverse`: of pairs alpha (terms), the unit of their cone's rows (terms), and that of the objective; units are powers of two.
struct SmoothUnits {
    const double* alpha = nullptr;
    Block cones, objective;
};

struct SmoothErrors {
    double point = infinity;       // of x, y, z, relative to 1 + the largest of each
    double derivative = infinity;  // of the header
    double curvature = infinity;   // the largest relative change of a ridge
    double inverse = infinity;     // of S^-1 of the program as given: smooth_inverse.hpp
};

class SmoothErrorWorker {
public:
    SmoothErrors operator()(const Call& call, const std::vector<SmoothTerm>& terms, Index tails, const SmoothPoints& at,
                            const SmoothUnits& units, Index i) {
        load(call, tails, at, i);
        lambda_.resize(core::count(terms));
        read(call, at.lambda, i, lambda_.head(lambda_.size()));
        find_u();
        find_ridges(terms);
        SmoothErrors out;
        if (!invert()) return out;
        bound_point(terms, out);
        bound_derivative(terms, at.refined, out);
        if (units.alpha != nullptr) {
            unit_of_.resize(core::count(terms));
            side_.resize(1);
            read(call, units.objective, i, side_.head(1));
            read(call, units.cones, i, unit_of_.head(unit_of_.size()));
            out.inverse = bound_inverse(terms, R_, B_.leftCols(rows_), C_, u_, lambda_, units.alpha, unit_of_, side_(0));
        }
        return out;
    }

private:
    static constexpr double unit_ = 0x1p-53, share_ = 1e-3, inverted_ = 1e-3;
    Index n_ = 0, rows_ = 0, tails_ = 0, ridges_ = 0;
    Matrix P_, B_, C_, H_, general_, K_, R_, ridge_, second_, e_, m_, dR_, dz_columns_, z_columns_, work_;
    Vector q_, b_, x_, y_, z_, d_, lambda_, u_, du_, dz_, p_, r_, d_point_, scale_, side_, held_, noise_, noise_u_, noise_rows_, of_rows_, unit_of_;
    Vector w_, ratio_, dw_, dv_;  // of the ridges
    Eigen::PartialPivLU<Matrix> lu_;

    void load(const Call& call, Index tails, const SmoothPoints& at, Index i) {
        n_ = call.n, tails_ = tails, rows_ = 0;
        P_.setZero(n_, n_);
        if (call.P.present()) {
            read(call, call.P, i, P_.leftCols(n_));
            P_ = (0.5 * (P_ + P_.transpose())).eval();
        }
        q_.resize(n_), x_.resize(n_), C_.resize(n_, tails), d_.resize(tails);
        read(call, call.q, i, q_.head(n_));
        read(call, at.x, i, x_.head(n_));
        read(call, at.C, i, C_.leftCols(tails));
        read(call, at.d, i, d_.head(tails));
        B_.resize(n_, call.p + call.m + 2 * n_), b_.resize(B_.cols()), y_.resize(B_.cols()), noise_rows_.setZero(B_.cols());
        of_rows_.setZero(call.p + call.m);
        if (at.noise_rows.present()) read(call, at.noise_rows, i, of_rows_.head(call.p + call.m));
        take_rows(call, call.A, call.b, at.y, 0, call.p, false, i);
        take_rows(call, call.G, call.h, at.z, call.p, call.m, true, i);
        take_bounds(call, call.lb, at.z_lb, -1.0, i);
        take_bounds(call, call.ub, at.z_ub, 1.0, i);
        noise_.setZero(n_), noise_u_.setZero(tails);
        if (at.noise.present()) read(call, at.noise, i, noise_.head(n_));
        if (at.noise_u.present()) read(call, at.noise_u, i, noise_u_.head(tails));
    }

    void take_rows(const Call& call, const Block& rows, const Block& sides, const Block& z, Index first, Index size, bool by_sign,
                   Index i) {
        if (size == 0) return;
        general_.resize(n_, size), side_.resize(size), held_.resize(size);
        read(call, rows, i, general_.leftCols(size));
        read(call, sides, i, side_.head(size));
        read(call, z, i, held_.head(size));
        for (Index k = 0; k < size; ++k) {
            if (by_sign && held_(k) == 0.0) continue;
            B_.col(rows_) = general_.col(k);
            b_(rows_) = side_(k);
            noise_rows_(rows_) = of_rows_(first + k);
            y_(rows_++) = held_(k);
        }
    }

    void take_bounds(const Call& call, const Block& sides, const Block& z, double sign, Index i) {
        if (!sides.present()) return;
        side_.resize(n_), held_.resize(n_);
        read(call, sides, i, side_.head(n_));
        read(call, z, i, held_.head(n_));
        for (Index k = 0; k < n_; ++k) {
            if (held_(k) == 0.0) continue;
            B_.col(rows_).setZero();
            B_(k, rows_) = sign;
            b_(rows_) = sign * side_(k);
            y_(rows_++) = held_(k);
        }
    }

    // u, and du: its rounding
    void find_u() {
        u_ = d_;
        if (tails_ > 0) u_.noalias() -= C_.transpose() * x_;
        du_.resize(tails_);
        for (Index k = 0; k < tails_; ++k) {
            const double sizes = std::abs(d_(k)) + C_.col(k).cwiseAbs().dot(x_.cwiseAbs());
            const double parts = static_cast<double>((C_.col(k).array() != 0.0).count() + (d_(k) != 0.0));
            du_(k) = parts * unit_ * sizes + noise_u_(k);
        }
    }

    void find_ridges(const std::vector<SmoothTerm>& terms) {
        p_.resize(tails_), z_.resize(tails_);
        w_.resize(tails_), ratio_.setZero(tails_), dw_.resize(tails_), dv_.setZero(tails_);
        ridge_.resize(n_, tails_), second_.setZero(n_, tails_);
        ridges_ = 0;
        for (Index t = 0; t < core::count(terms); ++t) {
            const SmoothTerm& term = terms[static_cast<std::size_t>(t)];
            const Index first = term.first;
            const double lambda = lambda_(t);
            term.value(u_, p_.data() + first);
            z_.segment(first, term.size) = lambda * p_.segment(first, term.size);
            if (term.kind == Smooth::log_sum) {
                ridge_.col(ridges_).noalias() = C_.middleCols(first, term.size) * p_.segment(first, term.size);
                r_ = ridge_.col(ridges_);
                for (Index k = first; k < first + term.size; ++k, ++ridges_) {
                    w_(ridges_) = lambda * p_(k);
                    ridge_.col(ridges_) = C_.col(k) - r_;
                }
                continue;
            }
            const double one = u_(first), two = u_(first + 1), ratio = one / two;
            w_(ridges_) = lambda * (term.kind == Smooth::relative ? 1.0 / one : std::exp(ratio) / two);
            ratio_(ridges_) = ratio;
            second_.col(ridges_) = C_.col(first + 1);
            ridge_.col(ridges_) = C_.col(first) - ratio * C_.col(first + 1);
            ++ridges_;
        }
    }

    // R, with K in units in which the diagonal of H and the rows are of size one; false where it is no inverse.
    bool invert() {
        const Index n = n_, size = n + rows_;
        H_ = P_;
        if (ridges_ > 0) {
            work_ = ridge_.leftCols(ridges_) * w_.head(ridges_).cwiseMax(0.0).cwiseSqrt().asDiagonal();
            H_.selfadjointView<Eigen::Lower>().rankUpdate(work_);
        }
        K_.setZero(size, size);
        K_.topLeftCorner(n, n) = H_.selfadjointView<Eigen::Lower>();
        K_.topRightCorner(n, rows_) = B_.leftCols(rows_);
        scale_.resize(size);
        for (Index j = 0; j < n; ++j) scale_(j) = K_(j, j) > 0.0 ? 1.0 / std::sqrt(K_(j, j)) : 1.0;
        for (Index k = 0; k < rows_; ++k) {
            const double length = B_.col(k).cwiseProduct(scale_.head(n)).norm();
            scale_(n + k) = length > 0.0 ? 1.0 / length : 1.0;
        }
        K_ = scale_.asDiagonal() * K_ * scale_.asDiagonal();
        K_.bottomLeftCorner(rows_, n) = K_.topRightCorner(n, rows_).transpose();
        if (!all_finite(K_)) return false;
        lu_.compute(K_);
        R_ = lu_.inverse();
        if (!all_finite(R_)) return false;
        r_ = K_ * R_.rowwise().sum();
        if (!((r_.array() - 1.0).abs().maxCoeff() <= inverted_)) return false;
        R_ = scale_.asDiagonal() * R_ * scale_.asDiagonal();
        return true;
    }

    // |du| of the header in du_, and the changes of the ridges
    void bound_point(const std::vector<SmoothTerm>& terms, SmoothErrors& out) {
        const Index n = n_, size = n + rows_;
        const auto B = B_.leftCols(rows_);
        const auto y = y_.head(rows_), b = b_.head(rows_);
        r_.resize(size);
        auto one = r_.head(n);
        auto other = r_.tail(rows_);
        // rounding of a sum of as many products, and of psi' and q
        const double all = unit_ * static_cast<double>(n + rows_ + tails_ + 4);
        change_ridges(terms);
        dz_of(terms, dz_);
        one = P_ * x_ + q_ + B * y - C_ * z_;
        work_ = C_.cwiseAbs();
        one = one.cwiseAbs() + all * (P_.cwiseAbs() * x_.cwiseAbs() + q_.cwiseAbs() + B.cwiseAbs() * y.cwiseAbs());
        one += work_ * (dz_ + all * z_.cwiseAbs()) + noise_;
        other = (B.transpose() * x_ - b).cwiseAbs() + all * (B.cwiseAbs().transpose() * x_.cwiseAbs() + b.cwiseAbs());
        other += noise_rows_.head(rows_);
        d_point_ = R_.cwiseAbs() * r_;
        times_columns(R_, C_, work_);
        du_ += work_.cwiseAbs().transpose() * r_;
        change_ridges(terms);
        dz_of(terms, dz_);
        out.point = std::max({relative(d_point_.head(n), x_), relative(d_point_.tail(rows_), y), relative(dz_, z_)});
        out.curvature = ridges_ > 0 ? std::max(dw_.head(ridges_).maxCoeff(), 0.0) : 0.0;
        if (!std::isfinite(out.point + out.curvature)) out.point = out.curvature = infinity;
    }

    static double relative(const ConstVectorRef& error, const ConstVectorRef& of) { return magnitude(error) / (1.0 + magnitude(of)); }

    // dw / w and dv_2 for du
    void change_ridges(const std::vector<SmoothTerm>& terms) {
        Index at = 0;
        for (const SmoothTerm& term : terms) {
            const Index first = term.first;
            if (term.kind == Smooth::log_sum) {
                const auto du = du_.segment(first, term.size);
                const double mean = p_.segment(first, term.size).dot(du);
                for (Index k = 0; k < term.size; ++k) dw_(at++) = du(k) + mean + rounded_;
                continue;
            }
            const double one = std::abs(u_(first)), two = std::abs(u_(first + 1)), ratio = std::abs(ratio_(at));
            const double turn = (du_(first) + ratio * du_(first + 1)) / two;
            dv_(at) = turn + rounded_ * ratio;
            dw_(at) = rounded_ + (term.kind == Smooth::relative ? du_(first) / one : dv_(at) + du_(first + 1) / two);
            ++at;
        }
    }

    // |W| |du| of the tails
    void dz_of(const std::vector<SmoothTerm>& terms, Vector& dz) const {
        dz.resize(tails_);
        Index at = 0;
        for (const SmoothTerm& term : terms) {
            const Index first = term.first;
            if (term.kind == Smooth::log_sum) {
                for (Index k = first; k < first + term.size; ++k, ++at) dz(k) = w_(at) * dw_(at);
                continue;
            }
            const double ratio = std::abs(ratio_(at));
            dz(first) = w_(at) * (du_(first) + ratio * du_(first + 1));
            dz(first + 1) = ratio * dz(first);
            ++at;
        }
    }

    void bound_derivative(const std::vector<SmoothTerm>& terms, double rho, SmoothErrors& out) {
        const Index n = n_, size = n + rows_;
        const auto w = w_.head(ridges_), dw = dw_.head(ridges_), dv = dv_.head(ridges_);
        times_columns(R_, ridge_.leftCols(ridges_), work_);
        e_ = work_.transpose();
        times_columns(R_, second_.leftCols(ridges_), work_);
        m_ = work_.transpose().cwiseAbs();
        z_columns_ = w.asDiagonal() * e_;
        e_ = e_.cwiseAbs().eval();
        work_ = w.cwiseProduct(dw).asDiagonal() * e_;
        work_ += 2.0 * w.cwiseProduct(dv).asDiagonal() * m_;
        dR_ = e_.transpose() * work_;
        dR_ = (0.5 * (dR_ + dR_.transpose())).eval();
        // of the tails: w e, and v_2 of that
        ridge_ = ridge_.cwiseAbs().eval();
        times_columns(dR_, ridge_.leftCols(ridges_), work_);
        dz_columns_ = work_.transpose();
        dz_columns_ += dw.asDiagonal() * e_;
        dz_columns_ += dv.asDiagonal() * m_;
        Index at = 0;
        for (const SmoothTerm& term : terms) {
            if (term.kind == Smooth::log_sum) {
                const auto p = p_.segment(term.first, term.size);
                const Eigen::RowVectorXd mean = p.cwiseProduct(dw_.segment(at, term.size)).transpose() * e_.middleRows(at, term.size);
                dz_columns_.middleRows(at, term.size).rowwise() += mean;
                at += term.size;
            } else {
                dz_columns_.row(at) *= std::max(1.0, std::abs(ratio_(at)));
                dz_columns_.row(at) += dv_(at) * e_.row(at);
                z_columns_.row(at) *= std::max(1.0, std::abs(ratio_(at)));
                ++at;
            }
        }
        dz_columns_ = w.asDiagonal() * dz_columns_;
        const Index sizes[] = {0, n, size};
        const auto blocks = [&](const Matrix& errors, double& worst) {
            for (int side = 0; side < 2; ++side) {
                const Index first = sizes[side], columns = sizes[side + 1] - first;
                for (int block = 0; block < 2; ++block) {
                    const Index top = sizes[block], height = sizes[block + 1] - top;
                    worsen(worst, errors.block(top, first, height, columns), R_.block(top, first, height, columns));
                }
            }
        };
        out.derivative = 0.0;
        blocks(dR_, out.derivative);
        worsen(out.derivative, dz_columns_.leftCols(n), z_columns_.leftCols(n));
        worsen(out.derivative, dz_columns_.rightCols(rows_), z_columns_.rightCols(rows_));
        // the residual of a derivative: rho of the largest of its terms, P dx, B'dy and C dz
        const auto B = B_.leftCols(rows_);
        work_ = P_.cwiseAbs() * R_.topRows(n).cwiseAbs() + B.cwiseAbs() * R_.bottomRows(rows_).cwiseAbs();
        work_ += ridge_.leftCols(ridges_) * (w.asDiagonal() * e_);
        const Eigen::RowVectorXd terms_of = rho * work_.colwise().maxCoeff().cwiseMax(1.0);
        work_ = R_.leftCols(n).cwiseAbs().rowwise().sum() * terms_of;
        double solved = 0.0;
        blocks(work_, solved);
        out.derivative += solved;
        if (!std::isfinite(out.derivative)) out.derivative = infinity;
    }

    // The largest error of a column relative to its largest entry.
    template <class Errors, class Values>
    static void worsen(double& worst, const Errors& errors, const Values& values) {
        if (values.size() == 0) return;
        const double least = share_ * magnitude(values);
        if (!(least > 0.0)) return;
        for (Index j = 0; j < values.cols(); ++j) {
            const double error = magnitude(errors.col(j)) / std::max(least, magnitude(values.col(j)));
            if (!(error <= worst)) worst = error;
        }
    }

    static constexpr double rounded_ = 4.0 * unit_;  // relative, of a weight
};

// out: (B, 4) as SmoothErrors.
inline void bound_errors(const Call& call, const std::vector<SmoothTerm>& terms, Index tails, const SmoothPoints& at,
                         const SmoothUnits& units, double* out, int threads) {
    Pool::run(call.batch, threads, [&](Index i, int) {
        thread_local SmoothErrorWorker worker;
        const SmoothErrors found = worker(call, terms, tails, at, units, i);
        const double values[] = {found.point, found.derivative, found.curvature, found.inverse};
        std::copy_n(values, 4, out + 4 * i);
    });
}

}  // namespace core
