"""tests/oracles/polish.py on programs whose optimum is known by construction, and on points that are none."""

import numpy as np
import pytest
from oracles import cones, polish

STATES = {"free", "slack", "active", "interior", "boundary", "dual interior"}  # the smooth equations have no others


def upper(t, order):
    """Rows (m, ...) of one semidefinite block, the lower triangle by columns -> the upper one."""
    return np.apply_along_axis(lambda column: polish.svec(cones.smat(column)), 0, t) if order else t


def program_of(known):
    """The program in polish's words, and its z."""
    sizes = {key: list(value) if isinstance(value, list) else [1] * value for key, value in known.cones.items()}
    blocks, pieces, start = [], [], 0
    for key in ("z", "l", "q", "s", "ep", "p"):
        for size in sizes.get(key, []):
            rows = {"q": size, "s": size * (size + 1) // 2, "ep": 3, "p": 3}.get(key, 1)
            name = {"z": "zero", "l": "nonnegative", "q": "second order", "s": "semidefinite", "ep": "exponential"}
            exponents = (size, 1.0 - size) if key == "p" else ()
            blocks.append(polish.Cone(name.get(key, "power"), rows, exponents))
            part = slice(start, start + rows)
            pieces.append([upper(t[part], key == "s") for t in (known.A, known.b, known.z)])
            start += rows
    A, b, z = (np.concatenate([piece[k] for piece in pieces]) for k in range(3))
    P = np.zeros((len(known.x), len(known.x))) if known.P is None else known.P
    return polish.Program(P, known.q, A, b, tuple(blocks)), z


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "keys", [("z", "l"), ("l", "q"), ("z", "s"), ("l", "ep"), ("l", "p"), ("z", "l", "q", "s", "ep", "p")]
)
def test_the_known_optimum_is_found_again_from_nearby(keys):
    count = 0
    for seed in range(12):
        known = cones.regular(seed, ("full", "low rank")[seed % 2], keys)
        if not {state for _, state in known.states} <= STATES:
            continue
        count += 1
        program, z = program_of(known)
        rng = np.random.default_rng(seed)
        x_near = known.x + 1e-6 * rng.standard_normal(known.x.shape)
        # a solver's z is zero where it should be, to the square root of its tolerance
        z_near = z + 1e-6 * rng.standard_normal(z.shape) * (np.abs(z) > 1e-9)
        x_found, z_found = polish.polish(program, x_near, z_near)
        np.testing.assert_allclose(x_found, known.x, rtol=0, atol=1e-10 * (1 + np.abs(known.x).max()))
        np.testing.assert_allclose(z_found, z, rtol=0, atol=1e-10 * (1 + np.abs(z).max()))
    assert count >= 4


def test_the_curved_boundary_that_stops_an_interior_point():
    # min -x - y on the disk |(x, y)| <= 1, from a point on its boundary that is off by 1e-5 and looks optimal to 1e-10
    angle = np.pi / 4 + 1e-5
    program = polish.Program(
        np.zeros((2, 2)), -np.ones(2), -np.eye(3)[:, 1:], np.array([1.0, 0.0, 0.0]), (polish.Cone("second order", 3),)
    )
    near = np.array([np.cos(angle), np.sin(angle)])
    x, z = polish.polish(program, near, np.append(np.sqrt(2.0), -np.sqrt(2.0) * near))
    np.testing.assert_allclose(x, np.sqrt([0.5, 0.5]), rtol=0, atol=1e-15)
    np.testing.assert_allclose(z, [np.sqrt(2.0), -1.0, -1.0], rtol=0, atol=1e-15)


def test_what_is_not_unique_is_left_where_it_is():
    # min x'1 with x >= 0 given twice: the two multipliers of each entry have sum one
    program = polish.Program(
        np.zeros((2, 2)), np.ones(2), -np.vstack([np.eye(2)] * 2), np.zeros(4), (polish.Cone("nonnegative", 4),)
    )
    x, z = polish.polish(program, np.array([1e-7, 2e-7]), np.array([0.3, 0.6, 0.7 + 1e-8, 0.4]))
    np.testing.assert_allclose(x, 0.0, atol=1e-12)
    np.testing.assert_allclose(z, [0.3, 0.6, 0.7, 0.4], atol=1e-7)
    np.testing.assert_allclose(z[:2] + z[2:], 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("cone", "P", "q", "A", "b", "x", "z"),
    [
        # a multiplier of the wrong sign, a point outside of the cone, a multiplier outside of a second-order cone
        (polish.Cone("nonnegative", 1), 1.0, 1.0, 1.0, 0.0, 0.0, -1.0),
        (polish.Cone("nonnegative", 1), 1.0, -1.0, 1.0, 0.0, 1.0, 0.0),
        (polish.Cone("second order", 1), 1.0, 1.0, 1.0, 0.0, 0.0, -1.0),
    ],
)
def test_a_stationary_point_that_is_no_optimum_is_refused(cone, P, q, A, b, x, z):
    program = polish.Program(*(np.full(shape, v) for shape, v in (((1, 1), P), (1, q), ((1, 1), A), (1, b))), (cone,))
    with pytest.raises(AssertionError, match="outside of the cone"):
        polish.polish(program, np.array([x]), np.array([z]))


def test_a_program_without_an_optimum_is_refused():
    program = polish.Program(
        np.zeros((1, 1)), np.ones(1), np.ones((1, 1)), np.ones(1), (polish.Cone("nonnegative", 1),)
    )
    with pytest.raises(AssertionError, match="residual"):
        polish.polish(program, np.zeros(1), np.zeros(1))
