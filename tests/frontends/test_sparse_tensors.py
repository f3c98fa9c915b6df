"""Sparse tensors as arguments: the answers and gradients of dense ones, on the pattern; errors that name the argument."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.linalg import solve_banded

import dcl
from dcl.layers import sparse
from dcl.program.pattern import SparsePattern

pytestmark = pytest.mark.filterwarnings(
    "ignore:Sparse"
)  # torch says that CSR is in beta, and that it does not check indices

SAME = {"rtol": 1e-10, "atol": 1e-10}
CONES = {"z": 2, "l": 3, "q": [3, 4], "s": [2], "ep": 1}


@pytest.fixture(params=["small", "on patterns"], autouse=True)
def lane(request, monkeypatch):
    """Both ways of a sparse call: as a dense program, and on its pattern."""
    if request.param == "on patterns":
        monkeypatch.setattr(sparse, "_MOST_DENSE", 0)
        monkeypatch.setattr(sparse, "_suits_core", lambda n, m: False)
    return request.param


def masked(rng, m, n, part=0.4):
    """A mask with an entry in every row and column."""
    mask = rng.random((m, n)) < part
    mask[np.arange(m), np.arange(m) % n] = True
    mask[np.arange(n) % m, np.arange(n)] = True
    return mask


def qp(seed=0, batch=()):
    rng = np.random.default_rng(seed)
    n, p, m = 7, 2, 4
    root = rng.standard_normal((*batch, n, n)) * masked(rng, n, n, 0.1)
    x = rng.standard_normal((*batch, n))
    A, G = (
        rng.standard_normal((*batch, p, n)) * masked(rng, p, n),
        rng.standard_normal((*batch, m, n)) * masked(rng, m, n),
    )
    lb = x - rng.uniform(0.0, 1.0, x.shape)
    lb[..., 2] = -np.inf
    data = {
        "P": root @ root.swapaxes(-1, -2) + np.eye(n),
        "q": 3.0 * rng.standard_normal((*batch, n)),
        "A": A,
        "b": np.einsum("...ij,...j->...i", A, x),
        "G": G,
        "h": np.einsum("...ij,...j->...i", G, x) + rng.uniform(0.0, 0.3, (*batch, m)),
        "lb": lb,
    }
    return {name: torch.tensor(t) for name, t in data.items()}


def cone_program(seed=0):
    """A regular program with all kinds of cones, from a point inside of them."""
    rng = np.random.default_rng(seed)
    curved = [[2, 0.5, 0.3], [2, 0.5, 0.3, 0.1], [1, 0.2, 1], [0, 1, 2.0]]
    inside = np.concatenate([np.zeros(2), rng.uniform(0.1, 1.0, 3), *curved])
    m, n = len(inside), 6
    A = rng.standard_normal((m, n)) * masked(rng, m, n)
    P = np.eye(n)
    P[0, 1] = P[1, 0] = 0.3
    x = rng.standard_normal(n)
    data = {"P": P, "q": 3.0 * rng.standard_normal(n), "A": A, "b": A @ x + inside}
    return {name: torch.tensor(t) for name, t in data.items()}


def coo_hybrid(t):
    """(*batch, m, n) -> COO (m, n, *batch), on the union of the patterns."""
    return t.movedim((-2, -1), (0, 1)).to_sparse(2)


def csr(t):
    """On the union of the patterns of the batch."""
    return compressed(t, torch.sparse_csr)


def csc(t):
    return compressed(t, torch.sparse_csc)


def compressed(t, layout):
    lead = t.shape[:-2]
    matrix = sp.csr_array if layout == torch.sparse_csr else sp.csc_array
    pattern = matrix((t.reshape(-1, *t.shape[-2:]) != 0).any(0).numpy())
    coo = pattern.tocoo()
    order = np.lexsort((coo.col, coo.row) if layout == torch.sparse_csr else (coo.row, coo.col))
    values = t[..., coo.row[order], coo.col[order]]
    pattern.sort_indices()
    starts, inner = (torch.tensor(i, dtype=torch.int64).expand(*lead, -1) for i in (pattern.indptr, pattern.indices))
    return torch.sparse_compressed_tensor(starts, inner, values, t.shape, layout=layout)


LAYOUTS = {"coo": lambda t: t.to_sparse(), "csr": csr, "csc": csc}


def answers(layer, data):
    """Outputs, and the gradients of one combination of them, for leaves `data`."""
    result = layer(**data)
    total = sum((torch.linspace(0.5, 1.5, t.numel()).double().reshape(t.shape) * t).sum() for t in result if t.numel())
    found = torch.autograd.grad(total, list(data.values()))
    return list(result), dict(zip(data, found, strict=True))


def leaves(data, make=None):
    return {
        name: (make(t) if make is not None and name in ("P", "A", "G") else t).detach().requires_grad_()
        for name, t in data.items()
    }


def compare(layer, data, make, full=lambda t: t.to_dense()):
    dense, known = answers(layer, leaves(data))
    given = leaves(data, make)
    outputs, found = answers(layer, given)
    torch.testing.assert_close(outputs, dense, **SAME)
    for name, g in found.items():
        assert g.layout == given[name].layout
        assert g.shape == given[name].shape
        if name in ("P", "A", "G"):
            # of P, the gradient is that of 0.5 (P + P'), as it is for dense tensors
            torch.testing.assert_close(full(g), torch.where(data[name] != 0, known[name], 0.0), **SAME)
        else:
            torch.testing.assert_close(g, known[name], **SAME)


@pytest.mark.sample(5)
@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quadratic_program_is_that_of_dense_tensors(layout, mu):
    compare(dcl.QPLayer(mu=mu), qp(), LAYOUTS[layout])


@pytest.mark.sample(5)
@pytest.mark.parametrize("mu", [0.0, 0.05])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cone_program_is_that_of_dense_tensors(layout, mu):
    compare(dcl.ConeLayer(CONES, mu=mu), cone_program(), LAYOUTS[layout])


@pytest.mark.sample(5)
@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_batched_values_on_one_pattern(layout):
    compare(dcl.QPLayer(), qp(1, (2, 3)), LAYOUTS[layout])


def test_the_batch_in_dense_dimensions():
    compare(dcl.QPLayer(), qp(1, (2, 3)), coo_hybrid, lambda t: t.to_dense().movedim((0, 1), (-2, -1)))


def test_shared_matrices_and_dense_ones_beside_sparse_ones():
    data = qp(2)
    data |= {"q": data["q"] + torch.linspace(0, 1, 3).double().unsqueeze(-1), "P": qp(3, (3,))["P"]}
    layer = dcl.QPLayer()
    dense, known = answers(layer, leaves(data))
    given = {name: t.detach().to_sparse().requires_grad_() if name == "G" else t for name, t in leaves(data).items()}
    outputs, found = answers(layer, given)
    torch.testing.assert_close(outputs, dense, **SAME)
    for name, g in found.items():
        expected = torch.where(data["G"] != 0, known["G"], 0.0) if name == "G" else known[name]
        torch.testing.assert_close(g.to_dense(), expected, **SAME)


@pytest.mark.sample(5)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck_in_the_values(layout):
    data = qp(4)
    made = {name: LAYOUTS[layout](data[name]) for name in ("P", "A", "G")}

    def built(name, values):
        t = made[name]
        if layout == "coo":
            return torch.sparse_coo_tensor(t.indices(), values, t.shape)
        a, b = (t.crow_indices(), t.col_indices()) if layout == "csr" else (t.ccol_indices(), t.row_indices())
        return torch.sparse_compressed_tensor(a, b, values, t.shape, layout=t.layout)

    def solve(P, A, G, q):
        return dcl.QPLayer()(
            built("P", P), q, A=built("A", A), G=built("G", G), b=data["b"], h=data["h"], lb=data["lb"]
        )

    values = [t.values().detach().requires_grad_() for t in made.values()]
    assert torch.autograd.gradcheck(solve, (*values, data["q"].requires_grad_()))


def test_a_triangle_is_symmetrized_by_the_rule_of_dense_tensors():
    data = qp(5)
    data["P"] = data["P"].triu() + 2.0 * torch.eye(7).double()
    compare(dcl.QPLayer(), data, LAYOUTS["coo"])


def test_uncoalesced_without_duplicates():
    data = qp(6)
    t = data["G"].to_sparse()
    order = torch.arange(t.values().numel()).flip(0)
    turned = torch.sparse_coo_tensor(t.indices()[:, order], t.values()[order], t.shape).requires_grad_()
    data["G"].requires_grad_()
    for G in (data["G"], turned):
        dcl.QPLayer()(**(data | {"G": G})).x.sum().backward()
    torch.testing.assert_close(turned.grad.to_dense(), torch.where(data["G"] != 0, data["G"].grad, 0.0), **SAME)


def test_float32_and_solve_qp():
    data = {name: t.float() for name, t in qp(7).items()}
    result = dcl.solve_qp(**{name: csr(t) if name in "PAG" else t for name, t in data.items()})
    assert result.x.dtype == torch.float32
    torch.testing.assert_close(result.x, dcl.solve_qp(**data).x)


# transforms


def test_transforms_over_dense_arguments():
    data = qp(8)
    sparsely = {name: csr(t) if name in "PAG" else t for name, t in data.items()}
    layer = dcl.QPLayer()

    def of(arguments):
        return lambda q: layer(**(arguments | {"q": q})).x

    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(of(sparsely))(data["q"]), transform(of(data))(data["q"]), **SAME)
    beside = data | {"G": sparsely["G"]}
    found, known = (torch.func.jacrev(lambda P, d=d: layer(**(d | {"P": P})).x)(data["P"]) for d in (beside, data))
    torch.testing.assert_close(found, known, **SAME)
    many = data["q"] + torch.linspace(0, 1, 3).double().unsqueeze(-1)
    torch.testing.assert_close(torch.func.vmap(of(sparsely))(many), layer(**(data | {"q": many})).x, **SAME)


def test_transforms_on_the_central_path():
    data, layer = qp(), dcl.QPLayer(mu=0.1)
    sparsely = {name: csr(t) if name in "PAG" else t for name, t in data.items()}

    def of(arguments):
        return lambda q: layer(**(arguments | {"q": q})).x.sin().sum()

    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(transform(of(sparsely))(data["q"]), transform(of(data))(data["q"]), **SAME)


def test_one_layer_with_other_bounds_in_each_call():
    P, q = torch.eye(5).double(), torch.linspace(-2.0, 2.0, 5).double()
    layer, bound = dcl.QPLayer(), torch.ones(5).double()
    for lb, ub in ((None, None), (-bound, None), (None, bound), (-bound, bound), (None, None)):
        x = layer(csr(P), q, lb=lb, ub=ub).x
        expected = (-q).clamp(-torch.inf if lb is None else -1.0, torch.inf if ub is None else 1.0)
        torch.testing.assert_close(x, expected, **SAME)


def test_second_derivatives_in_dense_arguments_or_an_error():
    data = qp(9)
    layer = dcl.QPLayer(mu=0.1)
    sparsely = {name: csr(t) if name in "PAG" else t for name, t in data.items()}

    def of(arguments):
        return lambda q: layer(**(arguments | {"q": q})).x.square().sum()

    hessian = torch.autograd.functional.hessian
    torch.testing.assert_close(hessian(of(sparsely), data["q"]), hessian(of(data), data["q"]), **SAME)
    G = data["G"].to_sparse().requires_grad_()
    value = layer(**(data | {"G": G})).x.square().sum()
    (g,) = torch.autograd.grad(value, G, create_graph=True)
    with pytest.raises(dcl.UnsupportedError, match="cannot be differentiated again"):
        torch.autograd.grad(g.to_dense().sum(), G)


def test_vmap_over_a_sparse_argument_is_an_error():
    data = qp(10)
    many = torch.stack([data["G"]] * 2).to_sparse()
    with pytest.raises(dcl.UnsupportedError, match="G"):
        torch.func.vmap(lambda G: dcl.QPLayer()(**(data | {"G": G})).x)(many)


# what is refused


def duplicate_coo():
    return torch.sparse_coo_tensor([[0, 0, 1], [2, 2, 1]], torch.ones(3).double(), (4, 7))


def duplicate_csr():
    return torch.sparse_csr_tensor(
        torch.tensor([0, 2, 2, 2, 2]), torch.tensor([3, 3]), torch.ones(2).double(), (4, 7), check_invariants=False
    )


def outside():
    return torch.sparse_csr_tensor(
        torch.tensor([0, 1, 1, 1, 1]), torch.tensor([9]), torch.ones(1).double(), (4, 7), check_invariants=False
    )


def mixed_csr():
    starts, cols = torch.tensor([[0, 1, 2, 2, 2]] * 2), torch.tensor([[0, 1], [0, 2]])
    return torch.sparse_csr_tensor(starts, cols, torch.ones(2, 2).double(), (2, 4, 7))


def mixed_coo():
    return torch.stack([torch.eye(4, 7), torch.eye(4, 7).roll(1, 1)]).double().to_sparse()


def blocks():
    return torch.ones(4, 8).double().to_sparse_bsr((2, 2))


def not_finite():
    G = torch.eye(4, 7).double()
    G[2, 2] = torch.nan
    return G.to_sparse()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (duplicate_coo, r"\(0, 2\) more than once"),
        (duplicate_csr, r"\(0, 3\) more than once"),
        (outside, "outside"),
        (mixed_csr, "different sparsity patterns"),
        (mixed_coo, "different sparsity patterns"),
        (blocks, "to_sparse_csr"),
        (not_finite, r"G\[2, 2\] is nan"),
        (lambda: torch.eye(4, 6).double().to_sparse(), r"last dimension\(s\) must be \(4, 7\)"),
        (lambda: torch.eye(4, 7).int().to_sparse(), "floating"),
        (lambda: torch.zeros(4, 7, 2, 2).double().to_sparse(3), "sparse and 1 dense"),
    ],
)
def test_bad_sparse_arguments_are_named(make, words):
    with pytest.raises(dcl.InputError, match=words) as caught:
        dcl.QPLayer()(**(qp() | {"G": make()}))
    assert caught.value.argument == "G"


def test_an_indefinite_P_is_refused_with_its_batch_index():
    data = qp(1, (3,))
    data["P"][1, 0, 0] = -5.0
    with pytest.raises(dcl.InputError, match=r"P is not positive semidefinite at batch index \(1,\)"):
        dcl.QPLayer()(**(data | {"P": csr(data["P"])}))


# large programs


def test_nothing_dense_is_formed_of_a_large_program(monkeypatch):
    """A tridiagonal P with bounds that do not bind: x = -P^-1 q, and the gradient in P is -u x' with u = P^-1 w."""

    def refuse(self, values):
        raise AssertionError("a dense matrix")

    monkeypatch.setattr(SparsePattern, "dense", refuse)
    n = 4000
    main, off = np.full(n, 2.5), np.full(n - 1, -1.0)
    places = sp.diags_array([off, main, off], offsets=[-1, 0, 1]).tocoo()
    P = torch.sparse_coo_tensor(np.stack([places.row, places.col]), places.data, (n, n)).coalesce().requires_grad_()
    rng = np.random.default_rng(0)
    q, w = torch.tensor(rng.standard_normal(n), requires_grad=True), rng.standard_normal(n)
    layer = dcl.QPLayer(on_degenerate="raise")
    x = layer(P, q, lb=torch.full((n,), -50.0).double(), ub=torch.full((n,), 50.0).double()).x
    banded = np.stack([np.append(0, off), main, np.append(off, 0)])
    np.testing.assert_allclose(x.detach().numpy(), -solve_banded((1, 1), banded, q.detach().numpy()), atol=1e-10)
    (x * torch.tensor(w)).sum().backward()
    u, at = solve_banded((1, 1), banded, w), x.detach().numpy()
    np.testing.assert_allclose(q.grad.numpy(), -u, atol=1e-10)
    found = P.grad.coalesce()
    i, j = found.indices().numpy()
    np.testing.assert_allclose(found.values().numpy(), -(u[i] * at[j] + u[j] * at[i]) / 2, atol=1e-9)
    assert len(sparse._forms[layer]) == 1
    layer(P.detach(), q.detach(), lb=torch.full((n,), -50.0).double(), ub=torch.full((n,), 50.0).double())
    assert len(sparse._forms[layer]) == 1  # analyzed once


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_indices_that_change_in_place_are_seen(lane, layout):
    """G x <= 1 with one entry in each row, for a maximum: x is 1 over the entry, in the column where it is now."""
    q = -torch.ones(3, dtype=torch.float64)
    bound = 5.0 * torch.ones(3, dtype=torch.float64)
    G = torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64)
    sparse = G.to_sparse().coalesce() if layout == torch.sparse_coo else G.to_sparse(layout=layout)
    P = 1e-3 * torch.eye(3, dtype=torch.float64)
    layer, ones = dcl.QPLayer(), torch.ones(2, dtype=torch.float64)

    def x():
        return layer(P, q, G=sparse, h=ones, ub=bound).x

    for _ in range(2):
        torch.testing.assert_close(x(), torch.tensor([0.5, 0.25, 5.0], dtype=torch.float64))
    if layout == torch.sparse_coo:
        sparse._indices()[1, 1] = 2
    elif layout == torch.sparse_csr:
        sparse.col_indices()[1] = 2
    else:
        sparse.ccol_indices()[2] = 1  # the second column is empty, its entry in the third
    for _ in range(2):
        torch.testing.assert_close(x(), torch.tensor([0.5, 5.0, 0.25], dtype=torch.float64))


@pytest.mark.parametrize(("make", "words"), [(duplicate_csr, "more than once"), (outside, "outside")])
def test_bad_places_are_refused_in_every_call(make, words):
    layer, G = dcl.QPLayer(), make()
    for _ in range(3):
        with pytest.raises(dcl.InputError, match=words):
            layer(**(qp() | {"G": G}))


def test_a_pattern_that_inference_mode_saw_first_serves_training(lane):
    layer, q = dcl.QPLayer(), torch.tensor([-2.0, -2.0], dtype=torch.float64)
    h = torch.ones(1, dtype=torch.float64)
    G = torch.tensor([[1.0, 0.0]], dtype=torch.float64).to_sparse().coalesce().requires_grad_()
    P = torch.eye(2, dtype=torch.float64)
    with torch.inference_mode():
        layer(P, q, G=G.detach(), h=h)
    x = layer(P, q, G=G, h=h).x
    # x_0 = 1 / g
    (slope,) = torch.autograd.grad(x[0], G)
    torch.testing.assert_close(slope.to_dense(), torch.tensor([[-1.0, 0.0]], dtype=torch.float64))
    with torch.inference_mode():
        torch.testing.assert_close(layer(P, q, G=G.detach(), h=h).x, torch.tensor([1.0, 2.0], dtype=torch.float64))
