"""The data sets of the example models, and the one split that training and tests share.

Both sets ship inside scikit-learn, so nothing is downloaded. Features are rounded to float32 before anything is
trained on them: an ONNX model sees float32, and a threshold learned between two float64 values can lie on the other
side of the rounded one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

HELD_OUT_SHARE = 0.25
SPLIT_SEED = 20

_LOADERS = {"breast-cancer": load_breast_cancer, "digits": load_digits}


@dataclass(frozen=True)
class Split:
    """Features are float32 values, whatever their dtype; labels are int64."""

    train_features: np.ndarray
    train_labels: np.ndarray
    held_out_features: np.ndarray
    held_out_labels: np.ndarray


def load_split(data_set: str) -> Split:
    """The fixed, stratified split of one data set; the held-out part is never trained on."""
    features, labels = _LOADERS[data_set](return_X_y=True)
    train_features, held_out_features, train_labels, held_out_labels = train_test_split(
        features.astype(np.float32),
        labels.astype(np.int64),
        test_size=HELD_OUT_SHARE,
        random_state=SPLIT_SEED,
        stratify=labels,
    )
    return Split(train_features, train_labels, held_out_features, held_out_labels)
