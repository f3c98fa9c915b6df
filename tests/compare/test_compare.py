"""`dcl.compare_gradients`: every row against high precision or a closed form, the verdicts, and what is written."""

import csv
import math
import re

import cvxpy as cp
import numpy as np
import pytest
import torch
from helpers import tensors
from oracles.regular import instance
from simulated_device import SimulatedDevice, send

import dcl
from dcl.__main__ import main
from dcl.compare import engines
from dcl.compare.families import CONES, draw
from dcl.compare.table import Row
from dcl.compare.verdict import Evidence, decide
from dcl.status import GradientKind

ORDER = ("P", "q", "A", "b", "G", "h", "lb", "ub")


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def compare_qp(data, **options):
    layer = options.pop("layer", None) or dcl.QPLayer()
    return dcl.compare_gradients(layer, *(data.get(name) for name in ORDER), **options)


def known_gradient(regular, weights):
    """Gradient of weights'x in the blocks that are present, in the order of the call, from 57 digits."""
    found = regular.gradients({"x": weights})
    return np.concatenate([np.ravel(found[name]) for name in ORDER if regular.data[name] is not None])


@pytest.mark.parametrize("kind", ["qp", "lp", "bounds"])
def test_exact_barrier_and_differences_against_high_precision(kind):
    regular = instance(kind, 5, 3)
    weights = np.random.default_rng(0).standard_normal(5)
    found = compare_qp(
        tensors(regular.data), mu=[1e-3, 1e-7], loss=lambda r: r.x @ torch.from_numpy(weights), engines=[], repeats=1
    )
    known = known_gradient(regular, weights)
    norm = np.linalg.norm(known)
    exact, differences = found.row("exact"), found.row("differences")
    np.testing.assert_allclose(exact.gradient.numpy(), known, rtol=0, atol=1e-9 * norm)
    assert exact.error <= 1e-6  # the differences are right to that
    assert differences.norm == pytest.approx(norm, rel=1e-6)
    assert exact.norm == pytest.approx(norm, rel=1e-9)
    assert exact.cosine == pytest.approx(1.0, abs=1e-9)
    assert exact.residual <= 1e-8
    near, far = found.row("barrier", 1e-7), found.row("barrier", 1e-3)
    assert np.linalg.norm(near.gradient.numpy() - known) <= 1e-4 * norm
    assert near.gap < far.gap
    assert near.error < far.error
    assert far.error == pytest.approx(np.linalg.norm(far.gradient.numpy() - known) / norm, rel=1e-4)
    assert found.recommended_mu == 0.0
    assert found.kinds == (GradientKind.EXACT,)


def test_box_linear_program_in_closed_form():
    """c = mu / x - mu / (1 - x): at the vertex the exact gradient is zero and a barrier one is recommended."""
    c = number([0.7, -1.3])
    data = {"q": c.requires_grad_(), "lb": torch.zeros(2).double(), "ub": torch.ones(2).double()}
    found = compare_qp(data, mu=[1e-1, 1e-2], loss=lambda r: r.x.sum(), engines=[], repeats=1)
    mu = 1e-2
    s = (c.detach() + 2 * mu - torch.sqrt(c.detach() ** 2 + 4 * mu**2)) / (2 * c.detach())  # x(mu)
    known = -1.0 / (mu / s**2 + mu / (1 - s) ** 2)
    row = found.row("barrier", mu)
    np.testing.assert_allclose(row.gradient, known, rtol=1e-8)
    assert row.gap == pytest.approx(float((s - number([0.0, 1.0])).norm()), rel=1e-8)
    assert row.error == pytest.approx(float(known.norm()), rel=1e-6)  # absolute: the differences are zero
    assert not found.relative
    assert found.row("exact").norm == 0.0
    assert math.isnan(found.row("exact").cosine)
    # gaps 0.16 and 0.018: start where x is within a half of the vertex, end where it is within a tenth
    assert found.recommended_mu == 1e-1
    assert found.mu_range == (1e-1, 1e-2)
    assert "start at mu = 0.1 " in found.verdict
    assert "lower it to 0.01 while training" in found.verdict
    assert "error (absolute)" in str(found).splitlines()[1]
    assert "not to use" not in str(found)


def test_arguments_in_which_the_exact_gradient_is_zero_are_named():
    """x = (h, 0) by x_0 <= h and x_1 >= 0: it moves with h, and not with q."""
    q, h = number([-1.0, 1.0]).requires_grad_(), number([0.5]).requires_grad_()
    G, lb = number([[1.0, 0.0]]), number([0.0, 0.0])
    options = {"loss": lambda r: r.x.sum(), "mu": [1e-1, 1e-2], "engines": [], "repeats": 1}
    found = dcl.compare_gradients(dcl.QPLayer(), None, q, G=G, h=h, lb=lb, **options)
    np.testing.assert_allclose(found.row("exact").gradient, [0.0, 0.0, 1.0], atol=1e-12)
    assert found.recommended_mu == 0.0
    assert "It is zero in q, with which x does not move" in found.verdict
    alone = dcl.compare_gradients(dcl.QPLayer(), None, q, G=G, h=h.detach(), lb=lb, **options)
    assert alone.recommended_mu > 0.0


def mean_layer(m=2):
    y, h = cp.Variable(), cp.Parameter(m, name="h")
    return dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(h - y)), [(y >= 0).set_label("sign")]), [h], [y])


def test_kink_of_the_positive_mean():
    """Eq. 65 at mean 0: one-sided slopes 0 and 1/m; every barrier gradient is 1/(2m), and so are central differences."""
    found = dcl.compare_gradients(
        mean_layer(), number([1.0, -1.0]), mu=[1e-2, 1e-4, 1e-6], loss=lambda r: r[0], engines=[]
    )
    for row in found.rows:
        if row.method in ("barrier", "straight-through"):
            np.testing.assert_allclose(row.gradient, [0.25, 0.25], rtol=1e-6)
    assert found.row("differences").norm == pytest.approx(math.hypot(0.25, 0.25), rel=1e-6)
    assert bool(
        ((found.row("exact").gradient > 0.0) & (found.row("exact").gradient < 0.5)).all()
    )  # a convex combination
    assert found.kinds == (GradientKind.WEAKLY_ACTIVE,)
    assert "one-sided differences differ by 100%" in found.verdict
    assert found.recommended_mu > 0.0
    assert found.row("straight-through").mu == found.recommended_mu
    # x = 0: gaps are absolute
    assert found.row("barrier", 1e-4).gap == pytest.approx(math.sqrt(1e-4 / 4.0), rel=1e-6)
    smooth = dcl.compare_gradients(mean_layer(), number([1.0, -0.5]), mu=[1e-4], loss=lambda r: r[0], engines=[])
    assert smooth.recommended_mu == 0.0
    assert smooth.verdict.startswith("Use the exact gradient (mu = 0): every instance is EXACT")


def test_straight_through_is_the_exact_point_with_the_derivative_on_the_path():
    """Loss y^2 / 2: y dy(mu)/dh with y exact, not y(mu)."""
    found = dcl.compare_gradients(
        mean_layer(), number([1.0, -0.5]), mu=[1e-2], loss=lambda r: 0.5 * r[0] ** 2, engines=[]
    )
    y, mu = 0.25, 1e-2  # 2 m y - 2 sum h = mu / y: y(mu) = (sum h + sqrt((sum h)^2 + 2 m mu)) / (2 m)
    smooth = (0.5 + math.sqrt(0.25 + 4.0 * mu)) / 4.0
    slope = 2.0 / (4.0 + mu / smooth**2)
    np.testing.assert_allclose(found.row("straight-through").gradient, [y * slope] * 2, rtol=1e-7)
    np.testing.assert_allclose(found.row("barrier").gradient, [smooth * slope] * 2, rtol=1e-7)
    assert found.row("straight-through").gap == 0.0


def test_flat_face_is_said_to_be_flat():
    data = {"q": number([1.0, 0.0]), "lb": torch.zeros(2).double(), "ub": torch.ones(2).double()}
    found = compare_qp(data, mu=[1e-3], engines=[], repeats=1)
    assert found.kinds[0] != GradientKind.EXACT
    assert found.recommended_mu in (0.0, 1e-3)
    assert any(text in found.verdict for text in ("flat", "one-sided", "multipliers"))


def test_batches_are_sums_and_differences_run_over_their_entries():
    """Instances of the positive mean, one of them with a shared offset: dy_i/dh_ij = 1/m where positive, else 0."""
    x, h, shift = cp.Variable(), cp.Parameter(2), cp.Parameter()
    layer = dcl.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(h + shift - x)), [x >= 0]), [h, shift], [x])
    h_value = number([[1.0, 2.0], [-3.0, 1.0], [0.5, 0.1]])
    found = dcl.compare_gradients(
        layer, h_value, number(0.2), mu=[1e-6], loss=lambda r: r[0].sum(), engines=[], repeats=1
    )
    known = np.array([0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 2.0])
    np.testing.assert_allclose(found.row("exact").gradient, known, atol=1e-9)
    assert found.row("exact").error <= 1e-8
    assert found.row("differences").norm == pytest.approx(np.linalg.norm(known), rel=1e-8)


def test_a_parameter_at_the_end_of_its_domain_has_no_differences():
    x, t, r = cp.Variable(2), cp.Parameter(2), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t) + r * cp.sum(x)), [x >= 0])
    layer = dcl.CvxpyLayer(problem, [t, r], [x])
    found = dcl.compare_gradients(
        layer, number([1.0, 0.5]), number(0.0), mu=[1e-4], engines=[], loss=lambda o: o[0].sum()
    )
    assert "3 entries (1 left out" in found.subject
    np.testing.assert_allclose(found.row("exact").gradient, [1.0, 1.0, -1.0], atol=1e-9)  # x = t - r / 2
    assert found.row("exact").error <= 1e-8


def test_differences_of_some_entries_only():
    regular = instance("qp", 10, 1)
    found = compare_qp(tensors(regular.data), mu=[], entries=15, engines=[], repeats=1)
    assert "errors over 15 of them drawn at random" in str(found)
    assert found.row("exact").error <= 1e-6
    again = compare_qp(tensors(regular.data), mu=[], entries=15, engines=[], repeats=1)
    assert found.row("differences").norm == again.row("differences").norm


def test_only_tensors_that_require_a_gradient_and_float32():
    data = {"P": torch.eye(2), "q": torch.tensor([-1.0, 2.0], requires_grad=True), "lb": torch.zeros(2)}
    found = compare_qp(data, mu=[1e-4], engines=[], loss=lambda r: r.x.sum())
    np.testing.assert_allclose(found.row("exact").gradient, [-1.0, 0.0], atol=1e-12)
    assert "gradient in q: 2 entries" in str(found)
    assert data["q"].grad is None


# other engines


@pytest.mark.parametrize("seed", range(2))
def test_diffcp_agrees_on_linear_programs(seed):
    pytest.importorskip("diffcp", reason="diffcp is an engine that users install themselves")
    regular = instance("lp", 5, seed)
    weights = np.random.default_rng(0).standard_normal(5)
    found = compare_qp(tensors(regular.data), mu=[1e-6], loss=lambda r: r.x @ torch.from_numpy(weights), repeats=1)
    known = known_gradient(regular, weights)
    for name, tol in (("diffcp dense", 1e-5), ("diffcp lsqr", 1e-4)):
        row = found.row(name)
        assert np.linalg.norm(row.gradient.numpy() - known) <= tol * np.linalg.norm(known)
        assert row.gap <= 1e-5
        assert row.residual <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in CONES if key != "p"])
def test_diffcp_agrees_on_cones(key):
    pytest.importorskip("diffcp", reason="diffcp is an engine that users install themselves")
    drawn = draw(4, [key], seed=1, linear=True)
    found = dcl.compare_gradients(drawn.layer, *drawn.tensors, mu=[1e-6], repeats=1, entries=30)
    for mode in engines.MODES:
        assert found.row(f"diffcp {mode}").error <= (1e-5 if mode != "lpgd" else 1e-2)
    assert found.row("exact").error <= 1e-6
    assert found.row("barrier", 1e-6).error < 0.05
    assert found.recommended_mu == 0.0


@pytest.mark.slow
def test_what_diffcp_cannot_do_is_said():
    pytest.importorskip("diffcp", reason="diffcp is an engine that users install themselves")
    quadratic = compare_qp(tensors(instance("qp", 3, 0).data), mu=[1e-3], repeats=1)
    assert "takes no quadratic objective" in quadratic.row("diffcp dense").note
    assert "takes no quadratic objective" in str(quadratic)
    lpgd = quadratic.row("diffcp lpgd")
    assert lpgd.note == "without the gradient in P: 9 entries"
    assert lpgd.error <= 1e-2
    drawn = draw(3, ["p"], seed=0, linear=True)
    power = dcl.compare_gradients(drawn.layer, *drawn.tensors, mu=[1e-3], repeats=1, entries=5)
    assert power.row("diffcp lsqr").note == "diffcp has no derivative of power cones"
    infeasible_for_it = power.row("diffcp lpgd")
    assert math.isnan(infeasible_for_it.error)


def test_without_diffcp_its_rows_say_so(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    found = compare_qp(tensors(instance("lp", 3, 0).data), mu=[1e-3], repeats=1)
    assert found.row("diffcp lsqr").note == "diffcp is not installed: pip install diffcp"
    assert found.recommended_mu == 0.0


def test_no_interior_no_path():
    data = {"P": torch.eye(2).double(), "q": number([-1.0, -2.0]), "G": number([[1.0, 1.0]]), "h": number([0.0])}
    found = compare_qp(data | {"lb": torch.zeros(2).double()}, mu=[1e-3, 1e-5], engines=[], repeats=1)
    assert found.row("barrier", 1e-3).note.startswith("no point x(mu)")
    assert "do the constraints leave an interior?" in str(found)
    assert [row.method for row in found] == ["exact", "barrier", "barrier", "differences"]
    # x = 0 whatever q is: there is no larger mu to advise either
    vertex = dcl.compare_gradients(
        dcl.QPLayer(), data["P"], data["q"].requires_grad_(), G=data["G"], h=data["h"], lb=torch.zeros(2).double(),
        mu=[1e-3, 1e-5], engines=[], repeats=1,
    )  # fmt: skip
    assert vertex.recommended_mu == 0.0
    assert "leave no interior" in vertex.verdict
    assert "larger mu" not in vertex.verdict


def test_argmin_layer():
    """Min |y - a|^2 + sum y^4: dy/da = 2 / (2 + 12 y^2)."""
    layer = dcl.ArgminLayer(lambda y, a: (y - a).square().sum() + y.pow(4).sum())
    found = dcl.compare_gradients(
        layer, torch.zeros(2).double(), number([3.0, -18.0]), mu=[1e-3], loss=lambda y: y.sum(), repeats=1
    )
    np.testing.assert_allclose(found.row("exact").gradient, [2.0 / 14.0, 2.0 / 50.0], rtol=1e-9)
    assert found.row("exact").error <= 1e-6
    assert found.row("diffcp lsqr").note == "no cone program to hand over"
    assert "parameter 0" in found.subject
    assert found.recommended_mu == 0.0


def test_anything_that_follows_the_protocol():
    """A layer that is no layer of dcl: max(a, 0), smoothed to (a + sqrt(a^2 + 4 mu)) / 2; differences one by one."""

    def positive(a, mu=0.0, return_solution=False):
        y = a.clamp(min=0.0) if mu == 0.0 else 0.5 * (a + torch.sqrt(a * a + 4.0 * mu))
        solution = dcl.solve_qp(torch.eye(1).double(), torch.ones(1).double(), return_solution=True)[1]
        return (y, solution) if return_solution else y

    found = dcl.compare_gradients(positive, number([2.0, -1.0]), mu=[1e-2], loss=lambda y: y.sum(), repeats=1)
    np.testing.assert_allclose(found.row("exact").gradient, [1.0, 0.0])
    assert found.row("exact").error <= 1e-9
    slopes = [0.5 + 1.0 / math.sqrt(4.04), 0.5 - 0.5 / math.sqrt(1.04)]
    assert found.row("barrier").error == pytest.approx(math.hypot(slopes[0] - 1.0, slopes[1]), rel=1e-6)
    assert found.row("diffcp dense").note == "no cone program to hand over"


# what is said, by synthetic evidence


def row(method, mu, gap=0.0, error=0.0, norm=1.0):
    return Row(method, mu, gap=gap, error=error, norm=norm, condition=10.0)


BARRIER = (row("barrier", 1e-1, 0.3, 0.5), row("barrier", 1e-2, 0.05, 0.2), row("barrier", 1e-4, 5e-3, 0.02))


def evidence(
    *,
    kinds=(GradientKind.EXACT,),
    exact=None,
    kink=0.0,
    slope=1.0,
    known=9,
    barrier=BARRIER,
    margin=0.5,
    pathless=False,
):
    exact = exact or row("exact", 0.0, error=1e-9)
    return Evidence(tuple(kinds), margin, exact, barrier, kink, slope, known, pathless)


@pytest.mark.parametrize(
    ("given", "mu", "said"),
    [
        (evidence(), 0.0, "agrees with central differences to 1e-09"),
        (evidence(exact=row("exact", 0.0, norm=0.0), slope=0.0), 1e-1, "start at mu = 0.1 "),
        (evidence(exact=row("exact", 0.0, norm=0.0), slope=0.0, barrier=BARRIER[1:]), 1e-2, "lower mu as training"),
        (evidence(exact=row("exact", 0.0, norm=0.0), slope=0.0, barrier=(), pathless=True), 0.0, "leave no interior"),
        (
            evidence(kinds=[GradientKind.WEAKLY_ACTIVE], kink=1.0, barrier=(), pathless=True),
            0.0,
            "There is no x(mu) for any mu tried",
        ),
        (evidence(kinds=[GradientKind.WEAKLY_ACTIVE], kink=1.0), 1e-4, "the point is WEAKLY_ACTIVE"),
        (
            evidence(kinds=[GradientKind.WEAKLY_ACTIVE] * 2 + [GradientKind.EXACT], kink=1.0),
            1e-4,
            "2 of 3 instances are",
        ),
        (evidence(kinds=[GradientKind.RANK_DEFICIENT]), 0.0, "for this loss"),
        (evidence(kinds=[GradientKind.NONUNIQUE], exact=row("exact", 0.0, error=0.4)), 1e-4, "differs from central"),
        (evidence(kink=0.5, margin=1e-6, exact=row("exact", 0.0, error=0.3)), 0.0, "already crosses a kink"),
        (evidence(exact=row("exact", 0.0, error=0.3)), 1e-4, "Nearest to the differences"),
        (evidence(known=0), 0.0, "no differences to compare with"),
        (
            evidence(kinds=[GradientKind.NONUNIQUE], barrier=(), exact=row("exact", 0.0, error=1.0)),
            0.0,
            "Try smaller mu",
        ),
    ],
)
def test_verdicts(given, mu, said):
    verdict = decide(given)
    assert verdict.mu == mu
    assert said in verdict.text


# arguments, and what is written


def test_bad_arguments():
    data = tensors(instance("qp", 3, 0).data)
    with pytest.raises(dcl.InputError, match="mu must be positive"):
        compare_qp(data, mu=[0.0])
    with pytest.raises(dcl.OptionError, match="diffcp dense"):
        compare_qp(data, engines=["diffcp"])
    with pytest.raises(dcl.InputError, match="loss must return one number"):
        compare_qp(data, loss=lambda r: r.x)
    with pytest.raises(dcl.InputError, match="no tensor"):
        dcl.compare_gradients(dcl.QPLayer(), None, None)
    infeasible = {"P": torch.eye(1).double(), "q": number([0.0]), "lb": number([1.0]), "ub": number([0.0])}
    with pytest.raises(dcl.SolveError, match="PRIMAL_INFEASIBLE"):
        compare_qp(infeasible)


def test_a_failed_instance_is_named_without_advice_that_does_not_help():
    lb, ub = number([[0.0], [1.0], [0.0]]), number([0.5])
    for on_failure in ("raise", "nan", "last"):
        with pytest.raises(dcl.SolveError, match=r"batch indices \(1,\) have none") as caught:
            compare_qp(
                {"P": torch.eye(1).double(), "q": number([0.0]), "lb": lb, "ub": ub},
                layer=dcl.QPLayer(on_failure=on_failure),
            )
        assert "on_failure" not in str(caught.value)
        assert caught.value.indices == [(1,)]
        assert caught.value.statuses == [dcl.Status.PRIMAL_INFEASIBLE]
    argmin = dcl.ArgminLayer(lambda y, a: (a * y).sum(), on_failure="nan")
    with pytest.raises(dcl.SolveError, match="a comparison needs"):
        dcl.compare_gradients(argmin, torch.zeros(1).double(), number([1.0]))


def test_tensors_by_name():
    P, q, G, h = torch.eye(2).double(), number([-1.0, -3.0]), number([[1.0, 1.0]]), number([1.0])
    by_place = dcl.compare_gradients(dcl.QPLayer(), P, q, None, None, G, h, mu=[1e-2], engines=[], repeats=1)
    by_name = dcl.compare_gradients(dcl.QPLayer(), P, q, h=h, G=G, mu=[1e-2], engines=[], repeats=1)
    assert by_name.subject == by_place.subject == "QPLayer: 2 outputs, gradient in P, q, G, h: 9 entries"
    torch.testing.assert_close(by_name.row("exact").gradient, by_place.row("exact").gradient, rtol=0, atol=0)
    cones = dcl.ConeLayer({"l": 1})
    A = number([[1.0, 1.0]])
    by_name = dcl.compare_gradients(cones, P, q, b=h, A=A, mu=[1e-2], engines=[], repeats=1)
    assert by_name.subject == "ConeLayer: 2 outputs, gradient in P, q, A, b: 9 entries"
    for call in (dcl.compare_gradients, dcl.diagnose):
        with pytest.raises(
            dcl.InputError, match="'H' is not an argument of QPLayer; its tensors: P, q, A, b, G, h, lb, ub"
        ):
            call(dcl.QPLayer(), P, q, G=G, H=h)
        with pytest.raises(dcl.InputError, match="q is given by position and by name"):
            call(dcl.QPLayer(), P, q, q=q)
        with pytest.raises(dcl.InputError, match="CvxpyLayer takes its tensors by position only, got the keyword 'h'"):
            call(mean_layer(), h=number([1.0, -1.0]))


def test_the_layer_is_left_as_it_was():
    layer = dcl.QPLayer(on_degenerate="raise", on_failure="nan")
    engine = layer._engine
    data = {"P": torch.eye(1).double(), "q": number([0.0]), "lb": number([0.0])}
    assert compare_qp(data, layer=layer, mu=[1e-4], engines=[], repeats=1).kinds == (GradientKind.WEAKLY_ACTIVE,)
    assert layer._engine is engine
    with pytest.raises(dcl.DegenerateError):
        layer(data["P"], data["q"].requires_grad_(), lb=data["lb"])


def test_a_layer_with_a_barrier_of_its_own():
    """Settings of the layer do not leak into the rows: mu = 0 is exact, and a barrier row is x(mu), not straight-through."""
    data = {"P": torch.eye(2).double(), "q": number([-1.0, 0.5]), "lb": torch.zeros(2).double()}
    plain, other = (
        compare_qp(data, layer=layer, mu=[1e-2], engines=[], repeats=1)
        for layer in (dcl.QPLayer(), dcl.QPLayer(mu=1e-3, straight_through=True))
    )
    for a, b in zip(plain, other, strict=True):
        assert (a.gap, a.error, a.norm) == (b.gap, b.error, b.norm)
    assert plain.row("barrier").gap > 1e-3
    assert (
        dcl.diagnose(dcl.QPLayer(mu=1e-3, straight_through=True), *(data.get(n) for n in ORDER), mu=0.0)[0].value
        == -0.5
    )


@pytest.mark.slow
def test_table_frame_csv_and_figure(tmp_path):
    found = compare_qp(tensors(instance("qp", 4, 2).data), mu=[1e-2, 1e-4], engines=[], repeats=1)
    lines = str(found).splitlines()
    assert lines[1].split()[-1] == "note"  # the differences have one
    # the barrier at 1e-4 is within a hundredth of x, at 1e-2 it is not
    assert lines[8] == "straight-through: the exact x with the gradient of x(0.0001); here to compare, not to use"
    assert lines[0].startswith("QPLayer: 4 outputs, gradient in ")
    assert [line.split()[0] for line in lines[3:8]] == [
        "exact",
        "barrier",
        "barrier",
        "straight-through",
        "differences",
    ]
    assert lines[-1] == found.verdict
    frame = found.to_frame()
    assert list(frame["method"]) == [row.method for row in found.rows]
    assert frame.loc[1, "error"] == found.row("barrier", 1e-2).error
    found.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [float(r["gap"]) for r in read] == [row.gap for row in found.rows]
    found.plot(tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(KeyError):
        found.row("barrier", 0.5)


# command line

FILE = """
import cvxpy as cp
x, t = cp.Variable(2, name="x"), cp.Parameter(2, name="t")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t)), [x >= 0])
parameters, variables, values = [t], [x], [[[1.0, -1.0], [0.5, 2.0]]]
"""


@pytest.mark.slow
def test_command_on_a_file(tmp_path, capsys):
    source = tmp_path / "problem.py"
    source.write_text(FILE, encoding="utf-8")
    rows, figure = tmp_path / "rows.csv", tmp_path / "figure.svg"
    assert main(["compare", str(source), "--mu", "1e-2", "1e-4", "--csv", str(rows), "--plot", str(figure)]) == 0
    said = capsys.readouterr().out
    assert "CvxpyLayer: 4 outputs, gradient in t: 4 entries" in said
    assert "Use the exact gradient" in said
    assert rows.read_text(encoding="utf-8").startswith("method,mu,gap")
    assert "<svg" in figure.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (k != "q")) for k in CONES])
def test_command_on_each_family(key, capsys):
    """Strictly feasible programs: regular optima, for every cone."""
    assert main(["compare", "--n", "3", "--cones", key, "--mu", "1e-3", "--seed", "2"]) == 0
    assert "Use the exact gradient (mu = 0): every instance is EXACT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "positive integer"),
        (["--mu", "-1"], "positive number"),
        (["--cones", "ball"], "invalid choice"),
        (["nowhere.py"], "no such file"),
        (["--csv", "no/such/folder.csv"], "cannot write"),
        (["--plot", "a.xyz"], "must end in .png, .pdf, .svg"),
    ],
)
def test_command_refuses_bad_options(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *arguments])
    assert message in capsys.readouterr().err


def test_command_says_what_a_file_lacks(tmp_path, capsys):
    source = tmp_path / "empty.py"
    source.write_text("problem = None", encoding="utf-8")
    assert main(["compare", str(source)]) == 2
    assert "does not define parameters, variables, values" in capsys.readouterr().err


def _without_times(text):
    return [line.split() for line in re.sub(r"[\d.]+ ms", "", text).splitlines() if line.strip("-")]


def test_command_takes_a_file_with_only_a_problem(tmp_path, capsys):
    source = tmp_path / "plan.py"
    short = (
        "import cvxpy as cp\n"
        'x, c, cap = cp.Variable(2, name="x"), cp.Parameter(2, name="c", value=[1.0, 2.0]), cp.Parameter(name="cap")\n'
        "problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) <= cap])\n"
    )
    source.write_text(short, encoding="utf-8")
    assert main(["compare", str(source)]) == 2
    assert "parameter cap has no value: --set cap=..., or set its .value" in capsys.readouterr().err
    assert main(["compare", str(source), "--mu", "1e-3", "--set", "cap=1.5"]) == 0
    said = capsys.readouterr().out
    # the same as with every name spelled out
    source.write_text(
        short + "parameters, variables, values = [c, cap], [x], {'c': [1.0, 2.0], 'cap': 1.5}\n", encoding="utf-8"
    )
    assert main(["compare", str(source), "--set", "cap=1.5"]) == 2
    assert "leave out --set" in capsys.readouterr().err
    assert main(["compare", str(source), "--mu", "1e-3"]) == 0
    assert _without_times(capsys.readouterr().out) == _without_times(said)
    source.write_text(short + "problem = cp.Problem(cp.Minimize(cp.sum_squares(x)))\n", encoding="utf-8")
    assert main(["compare", str(source)]) == 2
    assert "has no parameters" in capsys.readouterr().err


def test_command_without_matplotlib(monkeypatch, tmp_path, capsys):
    from dcl.cli import arguments as command

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["compare", "--plot", str(tmp_path / "a.png")]) == 2
    assert 'pip install "dcl-layers[compare]"' in capsys.readouterr().err


@pytest.mark.slow
def test_on_another_device():
    """Everything stays there or is fetched: a simulated device refuses to mix."""
    with SimulatedDevice():
        q, lb = send(number([-1.0, 2.0])), send(torch.zeros(2).double())
        layer = dcl.QPLayer()
        P = send(torch.eye(2).double())
        found = dcl.compare_gradients(
            layer, P, q, None, None, None, None, lb, mu=[1e-4], loss=lambda r: r.x.sum(), repeats=1
        )
        np.testing.assert_allclose(found.row("exact").gradient[4:6], [-1.0, 0.0], atol=1e-9)
        assert found.row("exact").error <= 1e-8
        assert dcl.diagnose(layer, P, q, None, None, None, None, lb)[0].healthy
