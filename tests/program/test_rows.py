"""What has an entry for every row is in the caller's order: z, s, certificates, warm starts; zero where a row is infinite."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
import torch
from oracles import cones as known_cones
from oracles.cones import smat, svec

import dcl
from dcl.frontends.cone import parse
from dcl.program.rows import Rows
from dcl.solvers import Scs
from dcl.solvers.base import AbstractSolver
from dcl.status import Status

F64 = {"dtype": torch.float64}
INF = np.inf


def tensor(values):
    return torch.tensor(np.asarray(values), **F64)


# The map and its adjoint


def test_the_map_is_an_isometry_with_its_adjoint():
    rows = parse({"z": 1, "s": [3, 2, 4], "ep": 1}).rows
    t, u = torch.randn(2, 5, 23, generator=torch.Generator().manual_seed(0), **F64)
    assert torch.equal(rows.to_user(rows.to_canonical(t)), t)
    assert torch.equal(rows.to_canonical(t.mT, -2).mT, rows.to_canonical(t))
    torch.testing.assert_close((rows.to_user(t) * u).sum(), (t * rows.to_canonical(u)).sum(), rtol=1e-14, atol=0.0)
    # lower triangle by columns (00, 10, 20, 11, 21, 22) <- upper triangle by columns (00, 01, 11, 02, 12, 22)
    assert parse({"s": [3]}).rows.to_user(torch.arange(6.0)).tolist() == [0, 1, 3, 2, 4, 5]


def test_rows_that_bind_nothing():
    rows = Rows(sides=((0, 1), (2, 4)))
    given = tensor([[1.0, INF], [INF, INF]]), tensor([[5.0]]), tensor([[0.0, -INF]])
    z = torch.arange(1.0, 15.0, **F64).reshape(2, 7)
    assert rows.multipliers(z, given).tolist() == [[1, 2, 0, 4, 5, 0, 7], [8, 0, 0, 11, 12, 0, 14]]
    finite = tensor([[1.0, 2.0]]), given[1], tensor([[0.0, 1.0]])
    assert rows.multipliers(z, finite) is z
    mapped = torch.func.vmap(lambda z, h: rows.multipliers(z, (h, *given[1:])))(z.unsqueeze(1), given[0].unsqueeze(1))
    assert torch.equal(mapped.squeeze(1), rows.multipliers(z, given))


# Cone programs, in the order of SCS

MIXED = [{"s": [3]}, {"z": 1, "l": 2, "s": [3, 2], "ep": 1}, {"q": [3], "s": [4]}]


def drawn(cones, seed=0):
    """A program in the words of SCS whose optimum is known by construction, without dcl's maps."""
    keys = [(key, s, "boundary") for key in ("q", "s") for s in cones.get(key, [])]
    keys += [("z", 1, "free")] * cones.get("z", 0) + [("l", 1, "active")] * cones.get("l", 0)
    keys += [("ep", 1, "boundary")] * cones.get("ep", 0)
    known = known_cones.draw(keys, "full", 5, np.random.default_rng(seed))
    assert known.cones == cones
    return known


@pytest.mark.parametrize("cones", MIXED, ids=str)
def test_the_solution_is_in_the_callers_order(cones):
    known = drawn(cones)
    result, solution = dcl.ConeLayer(cones)(*map(tensor, known.data.values()), return_solution=True)
    for point in (result, solution):
        for name, wanted in known.outputs.items():
            np.testing.assert_allclose(getattr(point, name), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cones", MIXED, ids=str)
def test_the_solution_of_a_batch_and_under_vmap(cones):
    several = [drawn(cones, seed) for seed in range(3)]
    data = [tensor(np.stack([known.data[name] for known in several])) for name in ("P", "q", "A", "b")]
    layer = dcl.ConeLayer(cones, on_degenerate="ignore")
    many = layer.solve(*data)
    mapped = torch.func.vmap(lambda *t: layer(*t, return_solution=True)[1])(*data)
    for solution in (many, mapped):
        np.testing.assert_allclose(solution.z, np.stack([known.z for known in several]), rtol=0, atol=1e-9)
        np.testing.assert_allclose(solution.s, np.stack([known.s for known in several]), rtol=0, atol=1e-9)


@dataclass(frozen=True, kw_only=True)
class Noting(AbstractSolver):
    """SCS, which notes where it is told to start."""

    starts: list[np.ndarray] = field(default_factory=list, hash=False)

    name: ClassVar[str] = "NOTING"
    releases_gil: ClassVar[bool] = False
    warm_starts: ClassVar[bool] = True
    gives_certificates: ClassVar[bool] = True
    gives_basic_duals: ClassVar[bool] = False
    limits_time: ClassVar[bool] = True
    cones: ClassVar[frozenset[str]] = Scs.cones

    def solve(self, program, rows, out, start=None, stop=None):
        if start is not None:
            # stationarity with the matrices that the solver gets, so their order of rows
            self.starts.append(program.P[0] @ start.x[0] + program.q[0] + program.A[0].T @ start.z[0])
        Scs().solve(program, rows, out, start, stop)


@pytest.mark.parametrize("cones", MIXED, ids=str)
def test_a_warm_start_arrives_in_the_order_of_the_rows_of_the_solver(cones):
    known, solver = drawn(cones), Noting()
    layer = dcl.ConeLayer(cones, solver)
    data = [tensor(t) for t in known.data.values()]
    solution = layer.solve(*data)
    assert not solver.starts
    again = layer.solve(*data, warm_start=solution)
    (residual,) = solver.starts
    assert np.abs(residual).max() <= 1e-9
    assert int(again.iterations) < int(solution.iterations)


# Certificates


def infeasible(rng):
    """S = C - sum x_k B_k psd is impossible: some Y = UU' has <Y, B_k> = 0 and <Y, C> = -1; (A, b, Y) in the order of SCS."""
    U = rng.standard_normal((3, 2))
    Y = U @ U.T
    A = np.column_stack([svec((B + B.T) / 2) for B in rng.standard_normal((2, 3, 3))])
    y = svec(Y)
    A -= np.outer(y, y @ A) / (y @ y)
    b = svec(np.eye(3))
    return A, b - y * (1.0 + y @ b) / (y @ y), Y


@pytest.mark.parametrize("solver", [None, "SCS"])
@pytest.mark.parametrize("seed", range(4))
def test_a_certificate_of_a_semidefinite_program_is_in_the_callers_order(seed, solver):
    A, b, _ = infeasible(np.random.default_rng(seed))
    data = None, torch.zeros(2, **F64), tensor(A), tensor(b)
    with pytest.raises(dcl.SolveError) as caught:
        dcl.ConeLayer({"s": [3]}, solver)(*data)
    solution = dcl.ConeLayer({"s": [3]}, solver, on_failure="nan").solve(*data)
    assert solution.status == Status.PRIMAL_INFEASIBLE
    for z in (caught.value.certificates[0].numpy(), solution.certificate.numpy()[2:]):
        assert b @ z == pytest.approx(-1.0)
        assert np.abs(A.T @ z).max() <= 1e-6
        assert np.linalg.eigvalsh(smat(z))[0] >= -1e-9


def test_a_direction_of_a_semidefinite_program():
    # min -<B, X> with X psd: X = B is a direction of decrease, in the caller's coordinates
    B = svec(np.array([[3.0, 1.0, -0.5], [1.0, 2.0, 0.7], [-0.5, 0.7, 1.0]]))
    solution = dcl.ConeLayer({"s": [3]}, on_failure="nan").solve(
        None, tensor(-B), -torch.eye(6, **F64), torch.zeros(6, **F64)
    )
    assert solution.status == Status.DUAL_INFEASIBLE
    x = solution.certificate.numpy()[:6]
    assert B @ x > 0.0
    assert np.linalg.eigvalsh(smat(x))[0] >= -1e-7 * np.abs(x).max()


# Infinite right-hand sides


def infeasible_qp(seed, batch=()):
    """Gx <= h that contradict each other, with h = inf, lb = -inf and ub = inf beside; in small integers."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    G = rng.integers(-4, 5, (n + 3, n)).astype(float)
    weights = rng.integers(1, 4, n + 1)
    G[n] = -(weights[:n] @ G[:n])  # weights'(G_0 .. G_{n-1}) + G_n = 0
    h = rng.integers(-3, 4, n + 3).astype(float)
    h[n] = -(weights[:n] @ h[:n]) - 1.0
    h[n + 1] = INF
    lb, ub = np.full(n, -50.0), np.full(n, 50.0)
    lb[rng.random(n) < 0.6], ub[rng.random(n) < 0.6] = -INF, INF
    return {"P": np.eye(n), "q": rng.integers(-3, 4, n).astype(float), "G": G, "h": h, "lb": lb, "ub": ub}


def proves(data, z):
    """Farkas in rationals, with the caller's finite rows alone: z >= 0, zero on infinite rows, |G'z| / -h'z, None if no proof."""
    n = len(data["q"])
    rows = np.vstack([data["G"], -np.eye(n), np.eye(n)])
    sides = np.concatenate([data["h"], -data["lb"], data["ub"]])
    exact = [Fraction(float(v)) for v in z]
    finite = [k for k in range(len(sides)) if np.isfinite(sides[k])]
    if min(exact) < 0 or any(exact[k] != 0 for k in range(len(sides)) if k not in finite):
        return None
    slope = -sum(Fraction(float(sides[k])) * exact[k] for k in finite)
    off = max(abs(sum(Fraction(float(rows[k, j])) * exact[k] for k in finite)) for j in range(n))
    return float(off / slope) if slope > 0 else None


@pytest.mark.parametrize("solver", [None, "CLARABEL", "OSQP"])
def test_certificates_have_no_multiplier_where_nothing_binds(solver):
    for seed in range(20):
        data = infeasible_qp(seed)
        given = {name: tensor(values) for name, values in data.items()}
        with pytest.raises(dcl.SolveError) as caught:
            dcl.solve_qp(**given, solver=solver)
        assert caught.value.statuses == [Status.PRIMAL_INFEASIBLE]
        z = caught.value.certificates[0].numpy()
        off = proves(data, z)
        assert off is not None
        assert off <= 1e-6
        sides = np.concatenate([data["h"], -data["lb"], data["ub"]])
        assert z[np.isfinite(sides)] @ sides[np.isfinite(sides)] == pytest.approx(-1.0)
        named = str(caught.value).split("the conflict lies among: ")[1]
        for block in ("h", "lb", "ub"):
            for j in np.flatnonzero(np.isinf(data[block])):
                assert f"{'G' if block == 'h' else block}[{j}]" not in named


def test_certificates_of_a_batch_whose_instances_have_other_infinite_rows():
    several = [infeasible_qp(seed) for seed in range(40)]
    several = [data for data in several if len(data["q"]) == 3][:4]
    assert len(several) == 4
    stacked = {name: tensor(np.stack([data[name] for data in several])) for name in several[0]}
    solution = dcl.QPLayer(on_failure="nan").solve(**stacked)
    assert (solution.status == Status.PRIMAL_INFEASIBLE).all()
    for data, row in zip(several, solution.certificate.numpy(), strict=True):
        assert np.isnan(row[:3]).all()
        off = proves(data, row[3:])
        assert off is not None
        assert off <= 1e-6
    shared = {**stacked, "ub": tensor(np.array([INF, 7.0, INF]))}  # one tensor for the whole batch
    for row in dcl.QPLayer(on_failure="nan").solve(**shared).certificate[:, 3:]:
        assert (row[[-3, -1]] == 0.0).all()


@pytest.mark.parametrize("mu", [0.0, 0.1])
def test_the_solutions_multipliers_are_zero_where_nothing_binds(mu):
    # min (x - 3)^2 / 2 with x <= 1 and x <= inf, x >= -inf
    h, lb = tensor([1.0, INF]), tensor([-INF])
    result, solution = dcl.solve_qp(
        torch.eye(1, **F64), tensor([-3.0]), G=torch.ones(2, 1, **F64), h=h, lb=lb, mu=mu, return_solution=True
    )
    assert solution.z.tolist() == [*result.z.tolist(), *result.z_lb.tolist()]
    assert solution.z[1:].tolist() == [0.0, 0.0]
    # x - 3 + z = 0, z (1 - x) = mu
    x = 2.0 - np.sqrt(1.0 + mu)
    np.testing.assert_allclose([solution.x[0], solution.z[0]], [x, 3.0 - x], rtol=0, atol=1e-9)
