"""Surfaces have the minima they say, methods do on them what must hold, slices show the network that is given."""

import copy
import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import flatmin
from flatmin import landscape
from flatmin.landscape import SURFACES
from flatmin.landscape.trajectories import METHODS_OF_THE_PAPER
from support.common import small_net

#: One process of the test run has all tests, so that what they share is made once.
pytestmark = pytest.mark.xdist_group("landscape")


def gradient(surface, w):
    return torch.autograd.functional.jacobian(surface, w)


def hessian(surface, w):
    return torch.autograd.functional.hessian(surface, w)


# -- surfaces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_minima_are_minima(surface):
    for minimum in surface.minima:
        w = torch.tensor(minimum, dtype=torch.float64)
        assert gradient(surface, w).abs().max() < 1e-12
        least = torch.linalg.eigvalsh(hessian(surface, w))[0]
        assert least > -1e-9 if surface.curve else least > 0.1
    values = surface(torch.tensor(surface.minima, dtype=torch.float64))
    assert torch.all(values >= values[0] - 1e-12)


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_the_window_holds_start_and_minima_and_nothing_lower(surface):
    (left, right), (low, high) = surface.window
    for x, y in (surface.start, *surface.minima):
        assert left <= x <= right and low <= y <= high
    x, y, values = surface.grid(61)
    assert values.shape == (61, 61) and values[7, 3] == surface(torch.stack([x[3], y[7]]))
    assert values.min() >= surface(torch.tensor(surface.minima[0], dtype=torch.float64)) - 1e-12


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_the_formula_is_the_function(surface):
    x, y = 0.7, 1.3
    text = surface.formula.replace("−", "-").replace("²", "**2").replace("³", "**3")
    for shown, meant in (("2 exp", "2*exp"), ("02 |", "02 *|"), ("-8 |", "-8 *|"), ("100 (", "100*("), ("xy", "x*y")):
        text = text.replace(shown, meant)
    for middle in ("(2, 1.25)", "(1, 1)", "(3, 1.5)"):
        text = text.replace(f"|w - {middle}|**2", f"math.dist((x, y), {middle})**2")
    value = eval(text, {"x": x, "y": y, "math": math, "exp": math.exp})
    assert surface(torch.tensor([x, y], dtype=torch.float64)).item() == pytest.approx(value, rel=1e-12)


def test_the_pair_of_basins_is_one_sharp_and_one_flat():
    basins = SURFACES["basins"]
    sharp, flat = (torch.tensor(minimum, dtype=torch.float64) for minimum in basins.minima)
    curvature = [torch.linalg.eigvalsh(hessian(basins, w)) for w in (sharp, flat)]
    assert torch.all(curvature[0] > 14 * curvature[1]) and basins(sharp) < basins(flat)


def test_every_point_of_the_valley_is_the_same_function():
    minima = torch.tensor(SURFACES["valley"].minima, dtype=torch.float64)
    torch.testing.assert_close(minima.prod(1), torch.ones(len(minima), dtype=torch.float64))
    traces = [hessian(SURFACES["valley"], w).trace().item() for w in minima[[0, 50, 200]]]
    torch.testing.assert_close(traces, minima[[0, 50, 200]].square().sum(1).tolist())
    assert traces[0] == pytest.approx(2) and traces[2] > 16


def test_an_unknown_surface_is_refused():
    with pytest.raises(ValueError, match="unknown surface 'rosenbrok'; did you mean 'rosenbrock'"):
        landscape.lookup("rosenbrok")
    with pytest.raises(ValueError, match="there are basins, rosenbrock, beale, valley"):
        landscape.lookup("x")


# -- trajectories ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracks():
    """Surface -> name -> track: of every method of the paper's figure on its surface, elsewhere of those asked for."""
    names = dict.fromkeys(SURFACES, ("ngd-fm", "ngd-cw", "ugd", "pugd"))
    names |= {"basins": METHODS_OF_THE_PAPER, "valley": ("sgd", "amp", *names["valley"])}
    return {on: {track.name: track for track in landscape.run(SURFACES[on], names[on])} for on in SURFACES}


@pytest.mark.parametrize("name", SURFACES)
def test_ugd_is_ngd_fm_step_for_step(tracks, name):
    surface, track = SURFACES[name], tracks[name]["ugd"]
    w = torch.tensor(surface.start, dtype=torch.float64)
    for step, point in enumerate(track.points):
        torch.testing.assert_close(w, point, rtol=0, atol=1e-8 * 1.01**step, msg=f"step {step}")
        if step == 150:  # rounding grows where a step turns back
            break
        g = gradient(surface, w)
        w = w - surface.lr * g / g.norm()
    assert torch.equal(track.points, tracks[name]["ngd-fm"].points)


@pytest.mark.parametrize("name", SURFACES)
def test_unit_methods_take_steps_of_length_lr_and_sign_descent_root_two(tracks, name):
    for method, length in (("ugd", 1.0), ("pugd", 1.0), ("ngd-cw", math.sqrt(2))):
        steps = tracks[name][method].steps
        torch.testing.assert_close(steps, torch.full_like(steps, length * SURFACES[name].lr))


@pytest.mark.parametrize("name", ["basins", "valley"])
def test_unit_methods_end_up_stepping_back_and_forth_over_a_minimum(tracks, name):
    """Half a step from it on the mean, which no method with steps of fixed length undercuts: PUGD does not either."""
    surface = SURFACES[name]
    for method in ("ugd", "pugd"):
        track = tracks[name][method]
        distance = track.late(surface.distance(track.points))
        assert 0.45 * track.lr < distance.mean() < 0.6 * track.lr and distance.max() < 1.1 * track.lr


def test_in_a_curved_valley_ugd_zigzags_and_pugd_less(tracks):
    """Rosenbrock's floor is y = x²: further from it, and turning back at nearly every step, is the one gradient."""
    angles, off = {}, {}
    for method in ("ugd", "pugd"):
        track = tracks["rosenbrock"][method]
        x, y = track.late(track.points).T
        angles[method], off[method] = track.late(track.turns).mean(), (y - x**2).abs().mean()
    assert angles["ugd"] > 150 and angles["pugd"] < 60
    assert off["pugd"] < 0.75 * off["ugd"]


def test_in_the_valley_pugd_goes_where_it_is_flat_and_sgd_stays(tracks):
    valley = SURFACES["valley"]
    sharpness = {name: hessian(valley, track.points[-1]).trace().item() for name, track in tracks["valley"].items()}
    assert sharpness["pugd"] < 3 < 4 < sharpness["amp"] < 8 < 9 < sharpness["sgd"]
    assert sharpness["sgd"] == pytest.approx(hessian(valley, torch.tensor(valley.start)).trace().item(), rel=0.01)


def test_noise_is_the_same_for_all_and_that_of_its_seed():
    noisy = [landscape.run(SURFACES["valley"], ["sgd", "ugd"], steps=5, noise=0.1, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(noisy[0][0].points, noisy[1][0].points)
    assert not torch.equal(noisy[0][0].points, noisy[2][0].points)
    plane = dataclasses.replace(SURFACES["valley"], function=lambda x, y: 0 * x * y)  # nothing but noise
    one, other = landscape.run(plane, ["sgd", "sam"], lr={"sgd": 1.0, "sam": 1.0}, steps=1000, noise=0.1)
    torch.testing.assert_close(one.points, other.points)
    deviation = one.points.diff(dim=0).std(0)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.1), rtol=0.1, atol=0)


def test_gradients_are_counted_and_learning_rates_are_of_two_kinds():
    surface = SURFACES["basins"]
    found = {track.name: track for track in landscape.run(surface, ["sgd", "sam", "amp", "pugd", "sign"], steps=3)}
    assert {name: track.gradients[-1].item() for name, track in found.items()} == {
        "sgd": 3,
        "sam": 6,
        "amp": 6,
        "pugd": 6,
        "sign": 3,
    }
    for name, track in found.items():
        assert track.lr == (surface.lr if name in ("pugd", "sign") else surface.gradient_lr)
    assert landscape.run(surface, ["sam"], lr={"sam": 0.3}, steps=1)[0].lr == 0.3


def test_a_track_that_leaves_ends_before_it():
    (track,) = landscape.run(SURFACES["rosenbrock"], ["sgd"], lr={"sgd": 1.0}, steps=20)
    assert track.left is not None and len(track.points) == track.left < 20
    assert torch.isfinite(track.points).all() and torch.isfinite(track.losses).all()


@pytest.mark.parametrize("name", flatmin.methods())
def test_every_method_runs_or_says_why_not(name):
    assert len(points_or_complaint(name)) == 4 or "momentum=0.9" in points_or_complaint(name)


def points_or_complaint(name):
    """Four points, or why the method cannot run."""
    try:
        (track,) = landscape.run(SURFACES["basins"], [name], steps=3)
        return track.points
    except ValueError as error:
        prefix, _, reason = str(error).partition(": ")
        return reason if prefix == f"{name} does not run on two weights and SGD" else ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["pugdd"]}, "unknown method 'pugdd'; did you mean 'pugd'"),
        ({"steps": -1}, "steps must be >= 0, got -1"),
        ({"noise": math.nan}, "noise must be >= 0, got nan"),
        ({"lr": {"ugd": 0.0}}, "lr must be > 0, got 0.0 for ugd"),
        ({"names": ["sgd"], "lr": {"sam": 0.1}}, "lr names sam, which is not among the methods: sgd"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        landscape.run(SURFACES["basins"], **options)


# -- directions and planes ---------------------------------------------------------------------------------------------


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_filters_of_a_direction_are_as_long_as_the_networks():
    net = small_net()
    direction = landscape.random_direction(net, generator())
    for p, d in zip(net.parameters(), direction, strict=True):
        if p.ndim < 2:
            assert not d.any()
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), p.flatten(1).norm(dim=1))
    scaled = landscape.random_direction(net, generator(), "tensor", vectors=True)
    for p, d in zip(net.parameters(), scaled, strict=True):
        torch.testing.assert_close(d.norm(), p.norm())
    plain = landscape.random_direction(net, generator(), "none", vectors=True)
    assert torch.equal(plain[0], torch.randn(plain[0].shape, generator=generator()))
    with pytest.raises(ValueError, match="normalise must be one of 'filter', 'tensor', 'none', got 'layer'"):
        landscape.random_direction(net, generator(), "layer")


def test_a_filter_of_zeros_stays():
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight[0].zero_()
    direction = landscape.random_direction(net, generator())[0]
    assert not direction[0].any() and direction[1].all()


def test_rescaling_a_relu_pair_moves_the_plain_slice_and_not_the_filter_normalised_one(batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other[1].parameters():
            p.mul_(10)
        other[3].weight.div_(10)
    data = [(batch[0].double(), batch[1])]
    ts = torch.linspace(-1, 1, 5)

    def curve(model, normalise):
        frame = landscape.Affine(landscape.weights(model), (landscape.random_direction(model, generator(), normalise),))
        return landscape.along(model, nn.functional.cross_entropy, data, frame, ts).losses

    torch.testing.assert_close(curve(net, "filter"), curve(other, "filter"))
    plain = curve(net, "none"), curve(other, "none")
    torch.testing.assert_close(plain[0][2], plain[1][2])  # the same function to begin with
    assert (plain[0] - plain[1]).abs()[[0, 4]].min() > 1


def states(net, count, seed=1):
    """Points of a random walk that begins at the weights of `net`."""
    torch.manual_seed(seed)
    walk = [landscape.weights(net)]
    for _ in range(count - 1):
        walk.append([p + 0.1 * torch.randn_like(p) for p in walk[-1]])
    return walk


def test_a_segment_hits_both_ends_exactly():
    net = small_net()
    start, end = states(net, 2)
    frame = landscape.Segment(start, end)
    parameters = [p.detach() for p in net.parameters()]
    for t, expected in ((0.0, start), (1.0, end)):
        frame.place(parameters, (t,))
        assert all(torch.equal(a, b) for a, b in zip(parameters, expected, strict=True))
    frame.place(parameters, (0.25,))
    torch.testing.assert_close(parameters, [0.75 * a + 0.25 * b for a, b in zip(start, end, strict=True)])


def test_the_plane_of_a_path_holds_both_ends_and_is_the_best_that_does():
    net = small_net().double()
    walk = states(net, 6)
    path = landscape.plane_of(walk)
    parameters = [p.detach() for p in net.parameters()]
    for i in (0, -1):
        path.frame.place(parameters, path.coordinates[i].tolist())
        torch.testing.assert_close(parameters, walk[i], rtol=0, atol=1e-12)
    path.frame.place(parameters, (0.0, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(parameters, walk[-1], strict=True))

    flat = torch.stack([torch.cat([t.flatten() for t in point]) for point in walk])
    away = flat - flat[-1]
    axes = torch.stack([torch.cat([t.flatten() for t in axis]) for axis in path.frame.axes])
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(away @ axes.T, path.coordinates)
    assert path.explained == pytest.approx(((away @ axes.T) ** 2).sum().item() / (away**2).sum().item())
    left = away - torch.outer(away @ axes[0], axes[0])
    assert (path.coordinates[:, 1] ** 2).sum() == pytest.approx(torch.linalg.svdvals(left)[0].item() ** 2)


def test_the_plane_of_principal_components_holds_more():
    walk = states(small_net().double(), 6)
    path, between = landscape.plane_of(walk, "pca"), landscape.plane_of(walk)
    flat = torch.stack([torch.cat([t.flatten() for t in point]) for point in walk])
    away = flat - flat[-1]
    axes = torch.stack([torch.cat([t.flatten() for t in axis]) for axis in path.frame.axes])
    torch.testing.assert_close(axes @ axes.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(away @ axes.T, path.coordinates)
    sizes = torch.linalg.svdvals(away)
    torch.testing.assert_close(torch.linalg.vector_norm(path.coordinates, dim=0), sizes[:2])
    assert path.explained == pytest.approx((sizes[:2].square().sum() / sizes.square().sum()).item())
    assert path.explained > between.explained
    assert (path.coordinates[0] >= 0).all() and path.coordinates[-1].tolist() == [0, 0]


def test_paths_without_a_plane_are_refused():
    net = small_net()
    walk = states(net, 3)
    with pytest.raises(ValueError, match="through must be one of 'ends', 'pca', got 'last'"):
        landscape.plane_of(walk, "last")
    with pytest.raises(ValueError, match="path must have at least 3 points, got 2"):
        landscape.plane_of(walk[:2])
    middle = [(a + b) / 2 for a, b in zip(walk[0], walk[1], strict=True)]
    with pytest.raises(ValueError, match="path is a straight line"):
        landscape.plane_of([walk[0], middle, walk[1]])
    with pytest.raises(ValueError, match="path is a straight line"):
        landscape.plane_of([walk[0], middle, walk[1]], "pca")
    with pytest.raises(ValueError, match="path ends where it begins"):
        landscape.plane_of([walk[0], walk[1], walk[0]])


# -- slices ------------------------------------------------------------------------------------------------------------


def affine(net, axes=1, **options):
    directions = tuple(landscape.random_direction(net, generator(i), **options) for i in range(axes))
    return landscape.Affine(landscape.weights(net), directions)


def parts(batch, size):
    return list(zip(batch[0].split(size), batch[1].split(size), strict=True))


def test_a_slice_is_the_loss_by_hand(batch):
    net = small_net().double().eval()
    data = [(batch[0].double(), batch[1])]
    frame = affine(net, 2)
    x, y = torch.tensor([-0.5, 0.0, 0.5]), torch.tensor([0.0, 1.0])
    sheet = landscape.over(net, nn.functional.cross_entropy, data, frame, x, y)
    assert sheet.losses.shape == (2, 3)
    by_hand = copy.deepcopy(net)
    with torch.no_grad():
        for p, a, b in zip(by_hand.parameters(), *frame.axes, strict=True):
            p.add_(0.5 * a).add_(b)
        expected = nn.functional.cross_entropy(by_hand(data[0][0]), batch[1])
    assert sheet.losses[1, 2].item() == pytest.approx(expected.item(), rel=1e-12)
    assert sheet.losses[0, 1].item() == nn.functional.cross_entropy(net(data[0][0]), batch[1]).item()


def test_batches_of_any_size_give_the_mean_over_examples(batch):
    net = small_net().double()
    double = batch[0].double(), batch[1]
    found = [
        landscape.losses(net, nn.functional.cross_entropy, parts(double, size), affine(net), [(0.3,)])
        for size in (16, 5)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("statistics", ["frozen", "rebuilt"])
@pytest.mark.parametrize("fails", [False, True])
def test_weights_statistics_and_modes_come_back(batch, statistics, fails):
    net = small_net(dropout=0.3)
    net[1](torch.randn(8, 4, 6, 6))  # statistics of its own
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    pointers = [p.data_ptr() for p in net.parameters()]
    random = torch.get_rng_state()
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if fails and len(calls) == 3:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, targets)

    def go():
        return landscape.losses(
            net, loss, [batch], affine(net), [(-1.0,), (0.0,), (1.0,), (2.0,)], statistics=statistics
        )

    if fails:
        with pytest.raises(KeyboardInterrupt):
            go()
    else:
        go()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert pointers == [p.data_ptr() for p in net.parameters()]
    assert [m.training for m in net.modules()] == [True, True, False, True, True, True, True]
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_statistics_are_frozen_or_rebuilt(batch):
    net = small_net().double()
    double = batch[0].double(), batch[1]
    frame = affine(net)
    frozen, rebuilt = (
        landscape.losses(net, nn.functional.cross_entropy, [double], frame, [(0.7,)], statistics=statistics).item()
        for statistics in ("frozen", "rebuilt")
    )
    by_hand = copy.deepcopy(net)
    frame.place([p.detach() for p in by_hand.parameters()], (0.7,))
    by_hand.eval()
    with torch.no_grad():
        assert frozen == nn.functional.cross_entropy(by_hand(double[0]), double[1]).item()
        flatmin.rebuild_statistics(by_hand, [double[0]])
        assert rebuilt == nn.functional.cross_entropy(by_hand(double[0]), double[1]).item() != frozen


def test_losses_that_are_not_finite_are_shown_as_such(batch):
    net = small_net()
    found = landscape.losses(net, nn.functional.cross_entropy, [batch], affine(net), [(0.0,), (1e38,), (0.1,)])
    assert torch.isfinite(found).tolist() == [True, False, True]


def test_bad_data_and_models_are_named(batch):
    net = small_net()
    frame = affine(net)

    def go(model=net, data=(batch,), **options):
        return landscape.losses(model, nn.functional.cross_entropy, data, frame, [(0.0,)], **options)

    for call, message in (
        (lambda: go(data=iter([batch])), r"batches can be gone through only once.* write list\(batches\)"),
        (lambda: go(data=[]), "batches is empty"),
        (lambda: go(model=nn.Flatten()), "model has no parameters.*Flatten"),
        (lambda: go(statistics="thawed"), "statistics must be 'frozen' or 'rebuilt', got 'thawed'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_code_on_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs/pictures.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/pictures.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


def test_the_page_lists_every_surface_and_its_start():
    page = (Path(__file__).parents[2] / "docs/pictures.md").read_text(encoding="utf-8")
    for surface in SURFACES.values():
        start = f"({surface.start[0]:g}, {surface.start[1]:g})".replace("-", "−")
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{surface.name}` |")]
        assert surface.formula.replace("|", "\\|") in row and f"| {start} |" in row
