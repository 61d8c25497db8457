"""scikit-learn's own answers: the examples' recipes, trained again here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from data import load_split
from recipes import RECIPES, fit

PROBABILITY_TOLERANCE = 1e-5

# Every version of every example model, as pytest parameters.
EVERY_VERSION = [(recipe.name, version) for recipe in RECIPES for version in recipe.versions]


@dataclass(frozen=True)
class Truth:
    """The held-out rows of one model version with scikit-learn's answers."""

    features: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


@cache
def truth(name: str, version: str) -> Truth:
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    estimator = fit(recipe, version)
    features = load_split(recipe.data_set).held_out_features
    return Truth(features, estimator.predict(features), estimator.predict_proba(features))


def assert_equal(expected: Truth, rows: slice, labels, probabilities) -> None:
    """Labels exact, probabilities within the tolerance."""
    assert np.array_equal(labels, expected.labels[rows])
    assert np.shape(probabilities) == expected.probabilities[rows].shape
    assert np.abs(probabilities - expected.probabilities[rows]).max() <= PROBABILITY_TOLERANCE
