"""Which example models exist, and how each version of each is trained.

A test that wants scikit-learn's own answer calls `fit` and gets the very estimator that the ONNX file was exported
from: every recipe fixes its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data import load_split


@dataclass(frozen=True)
class Recipe:
    """One model: what it is called, what it learns from, and one untrained estimator per version."""

    name: str
    description: str
    data_set: str
    versions: dict[str, ClassifierMixin]
    champion: str = "2"


RECIPES = (
    Recipe(
        name="breast-cancer-forest",
        description="Random forest, 100 trees of depth 10: is a breast mass malignant (0) or benign (1)?",
        data_set="breast-cancer",
        versions={
            "1": RandomForestClassifier(n_estimators=100, max_depth=10, random_state=1),
            "2": RandomForestClassifier(n_estimators=100, max_depth=10, max_features=0.5, random_state=2),
        },
    ),
    Recipe(
        name="breast-cancer-boosting",
        description="Gradient boosting: is a breast mass malignant (0) or benign (1)?",
        data_set="breast-cancer",
        versions={
            "1": GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=1),
            "2": GradientBoostingClassifier(n_estimators=200, max_depth=2, subsample=0.8, random_state=2),
        },
    ),
    Recipe(
        name="digits-mlp",
        description="Multi-layer perceptron: which digit do the 8 x 8 grey values (0 to 16) show?",
        data_set="digits",
        versions={
            "1": make_pipeline(StandardScaler(), MLPClassifier((32,), max_iter=300, tol=1e-3, random_state=1)),
            "2": make_pipeline(StandardScaler(), MLPClassifier((64, 32), max_iter=300, tol=1e-3, random_state=2)),
        },
    ),
)


def fit(recipe: Recipe, version: str) -> ClassifierMixin:
    """Trains one version from nothing.

    In float64, although the values are float32 ones: the rounding of different CPUs' vector units then stays far
    below the 1e-5 that the tests allow, and a perceptron trained anywhere is the same model.
    """
    split = load_split(recipe.data_set)
    return recipe.versions[version].fit(split.train_features.astype(np.float64), split.train_labels)
