"""Claims about subspaces, pretraining, and the quantity and quality of data: their machinery and their judges."""

import numpy as np
import pytest

from surrogate.study.claim import Records
from surrogate.study.claims import data


def planted(claim, measured):
    """Records of the full profile, from case -> measurement."""
    return Records({**case, **measured(case)} for case in claim.cases("full"))


def wobble(case) -> float:
    return 1 + 0.02 * np.sin(7.0 * case["seed"] + len(str(sorted(case.items()))))


def test_the_subspace_of_the_training_fields_is_theirs_and_not_that_of_the_new_ones():
    case = {"medium": "smooth", "seed": 0, "train": 40, "test": 10, "resolution": 8}
    measured = data._measure_subspace(case)
    assert measured["dimensions"] == [1, 2, 4, 8, 16, 32]
    assert measured["tail"] == pytest.approx(1, abs=1e-9)  # Eckart-Young
    assert measured["pythagoras"] == pytest.approx(1, abs=1e-9)
    assert measured["cosines"] <= 1
    assert (np.diff(measured["projection"]) < 0).all()
    assert all(p <= r for p, r in zip(measured["projection"], measured["regression"], strict=True))


def test_dimensions_for_a_level():
    r, errors = np.array([1, 2, 4, 8]), np.array([1.0, 0.5, 0.25, 0.125])
    assert data._dimension_for(r, errors, 2.0) == 1
    assert data._dimension_for(r, errors, 0.25) == pytest.approx(4)
    assert data._dimension_for(r, errors, 1 / 3) == pytest.approx(3)  # error = 1 / r
    assert data._dimension_for(r, errors, 0.1) == np.inf


@pytest.mark.parametrize(("rate", "verdict"), [({}, "supported"), ({"rough": 0.1}, "depends"),
                                               (dict.fromkeys(data.MEDIA, 0.1), "refuted")])  # fmt: skip
def test_the_verdict_on_subspaces_follows_the_decay(rate, verdict):
    r = np.array(data.DIMENSIONS, dtype=float)

    def measured(case):
        errors = r ** -rate.get(case["medium"], 2.0) * wobble(case)
        return {"dimensions": r, "projection": errors, "input": errors, "regression": errors + 0.1, "untruncated": 0.1,
                "tail": 1.0, "cosines": 0.5, "pythagoras": 1.0}  # fmt: skip

    finding = data.SUBSPACE.judge(planted(data.SUBSPACE, measured))
    assert finding.verdict == verdict
    assert all(check.ok for check in finding.checks)


@pytest.mark.parametrize(
    ("first", "rival", "verdict"), [(0.5, 1.0, "supported"), (0.5, 0.2, "depends"), (1.0, 1.0, "refuted")]
)
def test_the_verdict_on_pretraining_weighs_both_rivals(first, rival, verdict):
    factors = dict(zip(data.ARMS_OF_23, (1.0, first, rival), strict=True))

    def measured(case):
        error = 0.1 * factors[case["arm"]] * wobble(case)
        return {"test": error, "validation": error}

    assert data.PRETRAINING.judge(planted(data.PRETRAINING, measured)).verdict == verdict


def test_frames_of_a_film_follow_one_another_and_end_near_the_equilibrium():
    films, settled = data._films(0, 2)
    pairs = data.FRAMES - 1
    assert len(films) == 2 * pairs and len(settled) == 2
    np.testing.assert_array_equal(films.forcing[1, -1], films.target[0, 0])
    assert (settled.forcing[:, -1] == 0).all()
    distance = (films.target[:pairs] - settled.target[0]).flatten(1).norm(dim=1)
    assert (distance.diff() < 0).all()


@pytest.mark.parametrize(
    ("exponent", "noise", "verdict"), [(0.5, 1.5, "supported"), (0.5, 1.0, "depends"), (0.0, 1.5, "refuted")]
)
def test_the_verdict_on_quantity_and_quality(exponent, noise, verdict):
    factors = {"exact": 1.0, "noisy": noise, "own grid": 1.5}
    measured = lambda case: {"test": case["count"] ** -exponent * factors[case["quality"]] * wobble(case)}  # noqa: E731
    assert data.QUANTITY.judge(planted(data.QUANTITY, measured)).verdict == verdict


def test_labels_of_full_quality_differ_from_those_of_the_own_grid_and_counts_are_nested():
    problems, fine, own = data._labelled("train", 4, 0)
    assert 0.005 < np.linalg.norm(fine - own) / np.linalg.norm(fine) < 0.1
    np.testing.assert_array_equal(data._labelled("train", 8, 0)[1][:4], fine)
    assert len(problems) == 4
