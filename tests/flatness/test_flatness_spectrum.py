"""Eigenvalues, trace and spectral density: against dense matrices, known spectra, and their own error bars."""

import dataclasses
import itertools
import math
import statistics

import pytest
import torch
from torch import nn

from flatmin.flatness import Risk, density, eigenvalues, trace
from flatmin.flatness.extremes import ORDER
from flatmin.flatness.lanczos import extreme
from flatmin.flatness.sampling import enough, mean_and_error, student
from support import small_risks

SPECTRUM = [0.0] * 20 + [0.1 * i for i in range(1, 11)] + [2.0, 5.0, 9.0, -1.0, -0.3]


def matrix(risk, operator="hessian"):
    return risk.product(torch.eye(risk.parameters), operator)


@pytest.fixture(scope="module")
def exact():
    """Eigenvalues of the small network's Hessian, ascending."""
    return torch.linalg.eigvalsh(matrix(small_risks.risk()))


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_eigenvalues_are_those_of_the_dense_hessian(exact, which):
    order = {"LA": exact.flip(0), "SA": exact, "LM": exact[exact.abs().argsort(descending=True)]}[which]
    found = eigenvalues(small_risks.risk(), 3, which=which, tol=1e-8)
    torch.testing.assert_close(torch.tensor(found.values, dtype=torch.float64), order[:3], rtol=1e-5, atol=0)
    assert found.cost.products < 87


def test_the_largest_modulus_comes_first():
    assert eigenvalues(small_risks.bowl([1.0, -5.0, 4.0]), 2, which="LM").values == pytest.approx((-5, 4))
    many = small_risks.bowl([1.0, -5.0, 4.0, *[0.1] * 20])
    assert eigenvalues(many, 2, which="LM", tol=1e-9).values == pytest.approx((-5, 4))


def test_the_tolerance_bounds_the_error_and_saves_products(exact):
    loose, tight = (eigenvalues(small_risks.risk(), 2, tol=tol, basis=6) for tol in (1e-2, 1e-6))
    for found in (loose, tight):
        for value, error, truth in zip(found.values, found.errors, exact.flip(0), strict=False):
            assert abs(value - float(truth)) <= error <= found.tol * abs(value)
    assert loose.cost.products < tight.cost.products


SPECTRA = {
    "evenly": torch.linspace(-1, 1.2, 80),
    "dense inside": torch.linspace(-1, 1.1, 80) ** 3,
    "equal and largest": torch.tensor([5.0, 5.0, 5.0, *[1.0] * 77]),
    "three values": torch.tensor([7.0] + [2.0] * 40 + [-9.0] * 39),
    "identity": torch.ones(80),
    "nothing": torch.zeros(80),
}


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", SPECTRA)
def test_lanczos_finds_the_extremes_of_any_spectrum(name, k, which):
    rotation = torch.linalg.qr(torch.randn(80, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    values = SPECTRA[name].double()
    A = rotation @ torch.diag(values) @ rotation.T
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(80, dtype=torch.float64, generator=generator)
    products = itertools.count()

    def times(v):
        assert next(products) < 500
        return A @ v

    found, residuals, rows, _ = extreme(times, start, ORDER[which], k, 1e-8, 2 * k + 6, 1e-12, generator)
    assert found.tolist() == pytest.approx(values[ORDER[which](values)][:k].tolist(), abs=1e-12, rel=1e-9)
    assert (residuals <= 1e-8 * found.abs() + 1e-12).all()
    torch.testing.assert_close(rows @ rows.T, torch.eye(k).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(rows @ A, found[:, None] * rows, rtol=0, atol=2e-8 * float(values.abs().max()) + 1e-12)


def test_no_residual_is_asked_to_be_below_the_rounding_of_the_products():
    """An eigenvalue of zero has none that is small beside it."""
    A = torch.diag(torch.tensor([0.0, *torch.linspace(1, 4, 79)]))
    products = itertools.count()

    def times(v):
        assert next(products) < 200
        return (A @ v.float()).double() + 1e-7 * torch.randn(80, dtype=torch.float64, generator=generator)

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(80, dtype=torch.float64, generator=generator)
    (found,), (residual,), *_ = extreme(times, start, ORDER["SA"], 1, 1e-5, 8, 1.2e-6, generator)
    assert abs(float(found)) < 1e-5 and float(residual) < 1e-5


def test_lanczos_takes_no_more_products_than_scipy():
    sparse = pytest.importorskip("scipy.sparse.linalg")
    counts = {"ours": 0, "scipy's": 0}
    A = torch.diag(torch.cat([torch.linspace(0, 1, 300), torch.tensor([2.0, 3.0, 5.0])])).double()
    start = torch.ones(303, dtype=torch.float64)

    def times(v, who):
        counts[who] += 1
        return A @ v

    for k, basis in ((1, 8), (3, 12)):
        counts.update(dict.fromkeys(counts, 0))
        matrix = sparse.LinearOperator(
            A.shape, lambda v: times(torch.as_tensor(v.reshape(-1)), "scipy's").numpy(), dtype="float64"
        )
        theirs = sparse.eigsh(matrix, k, which="LA", tol=1e-4, ncv=basis, v0=start.numpy(), return_eigenvectors=False)
        generator = torch.Generator().manual_seed(0)
        ours = extreme(lambda v: times(v, "ours"), start, ORDER["LA"], k, 1e-4, basis, 1e-12, generator)[0]
        assert sorted(ours.tolist()) == pytest.approx(sorted(theirs), rel=1e-4)
        assert counts["ours"] <= counts["scipy's"]


@pytest.mark.parametrize("basis", [20, 90])
def test_errors_of_the_smallest_eigenvalues_cover_rounding(basis):
    """Rounding is relative to the largest eigenvalue, and not to those that were asked for."""
    low = torch.tensor([1e-12] + [10.0 * i for i in range(1, 60)] + [1000.0] * 20, dtype=torch.float64)
    found = eigenvalues(small_risks.Matrix.of(low), which="SA", tol=1e-3, basis=basis, max_products=5000)
    assert abs(found.values[0] - 1e-12) <= found.errors[0]
    assert found.errors[0] >= 1000 * 10 * torch.finfo(torch.float64).eps


def test_eigenvalues_in_float32(exact):
    found = eigenvalues(small_risks.risk(dtype=torch.float32), tol=1e-5)
    assert found.values[0] == pytest.approx(float(exact[-1]), rel=1e-5)


def test_all_eigenvalues_and_their_vectors(exact):
    risk = small_risks.risk()
    found = eigenvalues(risk, risk.parameters, vectors=True)
    torch.testing.assert_close(torch.tensor(found.values, dtype=torch.float64), exact.flip(0), rtol=1e-9, atol=1e-12)
    Q = found.vectors
    torch.testing.assert_close(Q @ Q.T, torch.eye(risk.parameters).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(risk.product(Q[0]), found.values[0] * Q[0], rtol=1e-8, atol=1e-9)


def test_vectors_of_the_iteration():
    risk = small_risks.risk()
    found = eigenvalues(risk, 2, tol=1e-9, vectors=True)
    for value, q in zip(found.values, found.vectors, strict=True):
        assert float(q.norm()) == pytest.approx(1)
        assert float((risk.product(q) - value * q).norm()) < 1e-6


def test_the_gauss_newton_matrix_has_no_negative_eigenvalues(exact):
    assert float(exact[0]) < -1e-3
    found = eigenvalues(small_risks.risk(), 1, which="SA", operator="ggn", tol=1e-2, basis=87)
    assert found.values[0] > -1e-9


def test_a_known_spectrum():
    risk = small_risks.rotated([0.5] * 40 + [3.0, 7.0, 11.0])
    assert eigenvalues(risk, 3, tol=1e-9).values == pytest.approx((11, 7, 3), rel=1e-6)
    assert trace(risk, tol=0.01, max_products=400).value == pytest.approx(41, rel=0.05)


# -- trace ------------------------------------------------------------------------------------------------------------


def test_the_trace_of_a_diagonal_needs_one_test_vector():
    found = trace(small_risks.bowl(SPECTRUM))
    assert found.value == pytest.approx(sum(SPECTRUM), rel=1e-12)
    assert found.error < 1e-12 and found.samples == 6 and found.converged


#: Spectra of 90 eigenvalues, and a tolerance that some six to twelve test vectors reach.
HARD = {
    "one large": ([10.0] + [0.1] * 89, 0.3),
    "few large": ([5.0, 3.0, 2.0, 1.0, 1.0, 1.0] + [0.0] * 84, 0.25),
    "both signs": ([5.0, 2.0, 1.0, -1.0, -0.5] + [0.1] * 85, 0.25),
    "even": (torch.linspace(0.5, 1.5, 90).tolist(), 0.015),
}


@pytest.mark.parametrize(("spectrum", "tol"), HARD.values(), ids=HARD)
def test_intervals_cover_where_the_tolerance_ends_the_sampling(spectrum, tol):
    """With the variance of the samples themselves, 10 to 22 % of all |z| are above 2, and the root is 1.2 to 3."""
    risk, truth = small_risks.Matrix.of(spectrum), sum(spectrum)
    found = [trace(risk, tol=tol, sketch=0, seed=seed) for seed in range(300)]
    assert all(each.converged for each in found) and 6 < statistics.fmean(each.samples for each in found) < 16
    z = [(each.value - truth) / each.error for each in found]
    assert statistics.fmean(abs(each) > 2 for each in z) < 0.08
    assert math.sqrt(statistics.fmean(each**2 for each in z)) < 1.15
    assert statistics.fmean(each.interval[0] < truth < each.interval[1] for each in found) > 0.92


def test_the_error_of_a_sketched_trace_is_that_of_what_is_left():
    """A large eigenvalue that the sketch takes contributes no error."""
    risk = small_risks.Matrix.of([1e4] + [1.0, 2.0] * 60)
    found = [trace(risk, tol=1e-12, sketch=4, max_products=20, seed=seed) for seed in range(100)]
    z = [(each.value - 10_180) / each.error for each in found]
    assert max(each.error for each in found) < 20
    assert 0.8 < math.sqrt(statistics.fmean(each**2 for each in z)) < 1.2


def test_quantiles_of_student_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 3.5, 5, 10, 100, 1e6):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=2e-3)
    assert student(1.9) == student(1) and student(2.9) == student(2)  # rather too wide than too narrow


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_intervals_of_any_mean_cover(scale):
    """Those of averages over noise: samples one at a time, until it is enough. Before, 10 % of all |z| were above 2."""
    z = []
    for seed in range(500):
        generator = torch.Generator().manual_seed(seed)
        draws = (1 + scale * torch.randn(200, generator=generator, dtype=torch.float64)).tolist()
        n = next(n for n in range(2, 200) if enough(draws[:n], scale / 3))
        mean, error = mean_and_error(draws[:n])
        z.append((mean - 1) / error)
    assert statistics.fmean(abs(each) > 2 for each in z) < 0.07
    assert math.sqrt(statistics.fmean(each**2 for each in z)) < 1.12
    mean, error = mean_and_error([1.0, 3.0])
    assert (mean, error) == (2.0, pytest.approx(12.706 / 1.96, rel=1e-3))


@pytest.mark.parametrize("operator", ["hessian", "ggn"])
@pytest.mark.parametrize("sketch", [0, 10])
def test_the_error_bar_of_the_trace_covers(sketch, operator):
    exact = matrix(small_risks.risk(), operator)
    risk, truth, off = small_risks.Matrix(exact), float(exact.trace()), []
    for seed in range(40):
        found = trace(
            risk, operator=operator, sketch=sketch, tol=1e-9, max_products=2 * sketch + 16, block=16, seed=seed
        )
        assert found.cost.products == 2 * sketch + 16 and not found.converged
        off.append((found.value - truth) / found.error)
    assert abs(statistics.fmean(off)) < 0.6  # of 40 standardised errors
    assert 0.7 < statistics.stdev(off) < 1.6


def test_a_sketch_pays_where_few_eigenvalues_are_large():
    risk = small_risks.rotated([0.01] * 60 + [5.0, 8.0, 13.0])
    plain, sketched = (trace(risk, tol=0.02, max_products=60, sketch=k, block=2) for k in (0, 6))
    assert not plain.converged and sketched.converged
    assert sketched.cost.products < 25
    assert sketched.value == pytest.approx(26.6, rel=0.05)


def test_plain_samples_tell_whether_to_sketch():
    flat = small_risks.Matrix.of([1.0, 1.5, 2.0] * 40)
    steep = small_risks.Matrix.of([0.01] * 117 + [50.0, 80.0, 130.0])
    for risk, truth, sketched in ((flat, 180, False), (steep, 261.17, True)):
        found, plain = (trace(risk, tol=0.05, max_products=400, sketch=k) for k in (None, 0))
        assert found.converged and plain.converged
        assert found.value == pytest.approx(truth, rel=0.15) and plain.value == pytest.approx(truth, rel=0.15)
        if sketched:  # 10 columns, 6 of them the plain probes, 10 more within their space, 6 probes
            assert found.cost.products == 26 < plain.cost.products
        else:
            assert found == dataclasses.replace(plain, cost=found.cost)
    # Six probes can look alike by chance; later ones tell.
    assert max(trace(steep, tol=0.1, max_products=400, seed=seed).cost.products for seed in range(20)) == 26
    # There is no sketch where it could not be finished, nor of nearly all there is.
    assert trace(steep, tol=0.05, max_products=25).samples == 25
    few = small_risks.Matrix.of([0.01] * 97 + [50.0, 80.0, 130.0])
    assert trace(few, tol=0.001, max_products=60).samples == 60


def test_samples_end_when_the_error_is_small_enough():
    loose, tight = (trace(small_risks.risk(), tol=tol, max_products=2000) for tol in (0.3, 0.1))
    assert loose.converged and tight.converged
    assert loose.cost.products < tight.cost.products < 2000


def test_blocks_of_test_vectors_are_the_same_vectors():
    one, four = (trace(small_risks.risk(), block=block, max_products=8, tol=1e-9) for block in (1, 4))
    assert one.value == pytest.approx(four.value, rel=1e-9)


# -- density ----------------------------------------------------------------------------------------------------------


def test_moments_are_the_traces_of_powers():
    risk = small_risks.risk()
    H = matrix(risk)
    found = density(risk, test_vectors=24, steps=12, block=8)
    assert found.cost.products == 24 * 12
    for power in (1, 2, 3):
        mean, error = found.moment(power)
        truth = float(torch.linalg.matrix_power(H, power).trace()) / risk.parameters
        assert error > 0 and abs(mean - truth) < 3 * error
    assert found.moment(0)[0] == pytest.approx(1)


def test_the_moments_of_a_diagonal_are_exact():
    found = density(small_risks.bowl(SPECTRUM), test_vectors=2, steps=10)
    for power in range(8):  # random signs see every eigenvalue equally
        assert found.moment(power)[0] == pytest.approx(statistics.fmean(s**power for s in SPECTRUM), rel=1e-9)


def test_all_of_a_small_spectrum_is_found_and_the_rest_has_no_weight():
    found = density(
        small_risks.bowl([1.0, 1.0, 4.0, 4.0, 4.0, -2.0]), test_vectors=1, steps=40
    )  # three directions to find
    heavy = found.weights[0] > 1e-9
    assert found.nodes[0][heavy].tolist() == pytest.approx([-2, 1, 4])
    assert found.weights[0][heavy].tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("sigma", [None, 0.2])
def test_the_curve_is_a_density(sigma):
    found = density(small_risks.risk(), test_vectors=3, steps=10)
    grid, curve, error = found.curve(sigma, 2000)
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, rel=1e-3)
    assert (error >= 0).all() and error.isfinite().all()
    mean = float(torch.trapezoid(grid * curve, grid))
    assert mean == pytest.approx(found.moment(1)[0], rel=1e-2)


def test_vectors_stay_orthogonal():
    """Without reorthogonalisation the largest eigenvalue would be found many times over."""
    risk = small_risks.rotated([*torch.linspace(0.01, 1, 70).tolist(), 100.0])
    found = density(risk, test_vectors=1, steps=60)
    assert int((found.nodes > 99).sum()) == 1


# -- progress and refusals ---------------------------------------------------------------------------------------------


def test_progress_counts_products():
    seen = []
    found = trace(small_risks.risk(), max_products=10, tol=1e-9, block=4, progress=lambda *counts: seen.append(counts))
    assert seen == [(4, 10), (8, 10), (10, 10)] and found.cost.products == 10
    seen.clear()
    density(small_risks.risk(), test_vectors=3, steps=4, block=2, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (12, 12) and len(seen) == 8
    seen.clear()
    found = eigenvalues(small_risks.risk(), progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (found.cost.products, None)


REFUSED = {
    "more than parameters": (lambda r: eigenvalues(r, 88), "k must be at most the number of parameters, 87, got 88"),
    "none": (lambda r: eigenvalues(r, 0), "k must be a whole number >= 1, got 0"),
    "which": (lambda r: eigenvalues(r, which="top"), "which must be 'LA' or 'SA' or 'LM', got 'top'"),
    "tol": (lambda r: eigenvalues(r, tol=0.0), "tol must be a number > 0"),
    "rounding": (
        lambda r: eigenvalues(small_risks.risk(dtype=torch.float32), tol=1e-8),
        r"tol must be >= 1.2e-06.*float32.*write model.double\(\)",
    ),
    "basis": (lambda r: eigenvalues(r, 5, basis=5), "basis must be a whole number >= 6, got 5"),
    "sketch": (lambda r: trace(r, sketch=87), "sketch must be less than the number of parameters, 87"),
    "no probes left": (lambda r: trace(r, sketch=10, max_products=20), "max_products must be a whole number >= 22"),
    "test vectors": (lambda r: density(r, test_vectors=0), "test_vectors must be a whole number >= 1, got 0"),
    "sigma": (lambda r: density(r, test_vectors=1, steps=2).curve(-1.0), "sigma must be a number > 0, got -1.0"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_to_write(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_risks.risk())


def test_no_convergence_is_an_error():
    with pytest.raises(RuntimeError, match=r"did not converge to tol=1e-10 within 9 products; write tol=1e-09"):
        eigenvalues(small_risks.risk(), 2, tol=1e-10, basis=6, max_products=9)


def test_a_product_that_is_not_finite_is_an_error():
    model = nn.Linear(1, 1, bias=False).double()
    x = torch.ones(2, 1, dtype=torch.float64)
    risk = Risk(model, lambda out, y: (out - out.detach()).abs().sqrt(), [(x, x)])
    with pytest.raises(ValueError, match="a product with the hessian is not finite"):
        eigenvalues(risk)


def test_one_sample_has_no_error():
    assert density(small_risks.risk(), test_vectors=1, steps=3).moment(1)[1] == math.inf


def test_curvlinops_finds_the_same():
    """Needs curvlinops, which asks for torchvision: installed by hand, without what it asks for."""
    curvlinops = pytest.importorskip("curvlinops", reason="pip install --no-deps curvlinops-for-pytorch einops einconv")
    model, data = small_risks.net().eval(), small_risks.batched(*small_risks.examples())
    v = torch.randn(87, dtype=torch.float64)
    kinds = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}
    for name, kind in kinds.items():
        theirs = kind(model, nn.CrossEntropyLoss(), list(model.parameters()), data) @ v
        torch.testing.assert_close(small_risks.risk().product(v, name), theirs, rtol=1e-9, atol=1e-11)
