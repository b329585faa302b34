"""What users see of the guarantee: certify, predictions, refinement, abstention."""

import math

import numpy as np
import pytest

import diffsim as ds
import surrogate as sg
from surrogate.sampling import Spec


class Known:
    """A "model" that answers with the solution and a relative error of its own."""

    task = "coefficients"
    card = None

    def __init__(self, error=0.0, answer=None):
        self.error, self.answer = error, answer

    def fields(self, problems, batch=16):
        if self.answer is not None:
            return np.stack([np.full(p.grid.shape, self.answer) for p in problems])
        rng = np.random.default_rng(0)
        noisy = lambda u: u * (1 + self.error * rng.uniform(-1, 1, u.shape))  # noqa: E731
        return np.stack([noisy(s.u) for s in ds.equilibrium(list(problems), tol=1e-12)])


class Frames:
    """A "model" of transients that answers with the last frame."""

    task = "transient"
    card = None

    def from_frames(self, times, frames, batch=16):
        return np.asarray(frames)[:, -1]


DARCY = [Spec.of("darcy").problem(0, i, 24) for i in range(4)]


def test_certify_takes_fields_from_anyone_and_lists():
    u = [ds.equilibrium(p, tol=1e-12).u for p in DARCY]
    single, many = sg.certify(DARCY[0], u[0] + 1e-3), sg.certify(DARCY, [x + 1e-3 for x in u])
    assert single.l2 == many[0].l2 >= 1e-3  # the unit box has volume 1
    assert single.energy_lower <= single.energy
    assert len(many) == 4
    with pytest.raises(ds.ProblemError, match="4 problems and 3 candidates"):
        sg.certify(DARCY, u[:3])


def test_the_relative_bound_is_relative_to_the_truth():
    truth = ds.equilibrium(DARCY[0], tol=1e-12).u
    v = 1.3 * truth
    bound = sg.certify(DARCY[0], v, steps=8)
    norm = lambda x: math.sqrt((x**2).mean())  # noqa: E731
    assert bound.l2_relative == pytest.approx(bound.l2 / (norm(v) - bound.l2))
    assert norm(v - truth) / norm(truth) <= bound.l2_relative


def test_predictions_are_accepted_by_their_guarantee_alone():
    good, bad = (sg.predict(Known(error), DARCY[0], tol=1e-2) for error in (1e-5, 0.3))
    assert good.accepted
    assert not bad.accepted
    assert good.bound.l2_relative <= 1e-2 < bad.bound.l2_relative
    np.testing.assert_array_equal(good.u, Known(1e-5).fields(DARCY[:1])[0])


@pytest.mark.parametrize("answer", [None, 0.0, 1e6, np.nan, np.inf])
def test_refine_reaches_its_tolerance_from_any_prediction(answer):
    prediction = sg.predict(Known(0.3, answer), DARCY[1], tol=1e-2)
    assert not prediction.accepted
    refined = prediction.refine(1e-7)
    truth = ds.equilibrium(DARCY[1], tol=1e-13).u
    assert refined.accepted
    assert (
        np.linalg.norm(refined.u - truth)
        <= refined.bound.l2_relative * np.linalg.norm(truth)
        <= 1e-7 * np.linalg.norm(truth)
    )


def test_refine_works_with_voids_and_held_cells():
    active, held = np.ones((12, 12), dtype=bool), np.zeros((12, 12), dtype=bool)
    active[3:6, 4:9] = False
    held[9, 9] = True
    problem = ds.Problem(
        ds.Grid(shape=(12, 12), lengths=(1.0, 1.0)),
        diffusivity=1.0,
        active=active,
        fixed=(held, np.full((12, 12), 2.0)),
        boundary={"x-": ds.Dirichlet(1.0)},
    )
    refined = sg.predict(Known(0.0, 1.0), problem).refine(1e-8)
    np.testing.assert_allclose(refined.u, ds.equilibrium(problem, tol=1e-12).u, rtol=1e-7)
    assert np.isnan(refined.u[4, 5])
    assert refined.u[9, 9] == 2.0


def test_a_tolerance_below_rounding_ends_with_an_explanation():
    with pytest.raises(ds.ConvergenceError, match="rounding"):
        sg.predict(Known(0.1), DARCY[0]).refine(1e-17)


def test_grids_may_be_mixed_in_one_list():
    problems = [DARCY[0], Spec.of("darcy").problem(0, 7, 16), DARCY[1]]
    predictions = sg.predict(Known(1e-6), problems)
    assert [p.u.shape for p in predictions] == [(24, 24), (16, 16), (24, 24)]
    assert all(p.accepted for p in predictions)
    assert sg.predict(Known(), []) == []


def test_transients_carry_no_guarantee_and_say_so():
    run = ds.simulate(DARCY[0], 0.0, until=0.01, save=4)
    by_run, by_pair = sg.predict(Frames(), run), sg.predict(Frames(), (run.t, run.u))
    np.testing.assert_array_equal(by_run.u, by_pair.u)
    assert by_run.bound is None
    assert not by_run.accepted
    assert "no guarantee" in repr(by_run)
    with pytest.raises(ds.ProblemError, match="nothing to refine"):
        by_run.refine(1e-3)


def test_observations_at_points_are_placed_on_the_grid():
    grid = ds.Grid(shape=(6, 5), lengths=(1.0, 1.0))
    points, times = [(0.05, 0.1), (0.9, 0.9), (0.95, 0.95)], [0.0, 1.0]
    seen = ds.Observations(points, times, np.array([[1.0, 2.0, 4.0], [1.5, 3.0, 5.0]]))
    u = sg.predict(Frames(), seen, grid=grid).u
    assert u[0, 0] == 1.5
    assert u[5, 4] == 4.0  # two sensors in one cell: their mean
    assert 1.5 <= u.min() <= u.max() <= 4.0 + 1e-9
    with pytest.raises(ds.ProblemError, match="need a grid"):
        sg.predict(Frames(), seen)


def test_the_interval_is_the_conformal_quantile_of_the_validation_errors():
    model = Known(1e-3)
    model.card = type("Card", (), {"trained": {"validation_errors": np.linspace(0.01, 0.19, 19)}})
    interval = sg.predict(model, DARCY[0]).interval
    assert interval.l2_relative == pytest.approx(0.18)  # the 18th of 19: ceil(0.9 * 20)
    assert "no guarantee" in str(interval)
    model.card.trained["validation_errors"] = [0.1] * 5  # too few for 90 %
    assert sg.predict(model, DARCY[0]).interval is None


@pytest.mark.parametrize("given", [3, "darcy", None, [1.0]])
def test_what_is_no_problem_is_refused(given):
    with pytest.raises(ds.ProblemError, match="Problem"):
        sg.predict(Known(), given)


@pytest.mark.parametrize("spec", ["lognormal", "inclusions", "layers", "mixed"])
def test_refine_copes_with_every_medium_and_side(spec):
    problem = Spec.of(spec).problem(0, 1, 24)
    refined = sg.predict(Known(0.3), problem).refine(1e-6)
    truth = ds.equilibrium(problem, tol=1e-13).u
    assert (
        np.linalg.norm(refined.u - truth)
        <= refined.bound.l2_relative * np.linalg.norm(truth)
        <= 1e-6 * np.linalg.norm(truth)
    )


def test_the_bound_is_tightened_until_it_decides():
    loose = sg.predict(Known(0.004), DARCY[0], tol=1e-2, steps=0)
    decided = sg.predict(Known(0.004), DARCY[0], tol=1e-2)
    assert not loose.accepted  # a rough error looks large from its energy alone
    assert decided.accepted
    assert sg.predict(Known(0.3), DARCY[0], tol=1e-2).bound.steps == 2  # more could not have helped
