"""Models of many kinds as their exporters write them, each with inputs that it takes. Small, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Inputs = dict[str, np.ndarray]
Maker = Callable[[Path], Inputs]

# The newest that `onnx` writes may be beyond what the engine reads; exporters have an option for it.
OPSET = 21
IR_VERSION = 10
SEED = 7
LARGE_COLUMNS = 7_500

MAKERS: dict[str, Maker] = {}


def kind(make: Maker) -> Maker:
    MAKERS[make.__name__.replace("_", "-")] = make
    return make


def iris() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_iris

    features, classes = load_iris(return_X_y=True)
    return features.astype(np.float32), classes


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)


# === scikit-learn ===


def export_sklearn(fitted, path: Path, **options) -> Inputs:
    from skl2onnx import to_onnx

    features, _ = iris()
    path.write_bytes(to_onnx(fitted, features[:1], target_opset=OPSET, **options).SerializeToString())
    return {"X": features[::10]}


@kind
def forest_with_zipmap(path: Path) -> Inputs:
    from sklearn.ensemble import RandomForestClassifier

    return export_sklearn(RandomForestClassifier(10, random_state=SEED).fit(*iris()), path)


@kind
def zipmap_of_strings(path: Path) -> Inputs:
    from sklearn.linear_model import LogisticRegression

    features, classes = iris()
    names = np.array(["setosa", "versicolor", "virginica"])[classes]
    return export_sklearn(LogisticRegression(max_iter=1000).fit(features, names), path)


@kind
def regression_without_zipmap(path: Path) -> Inputs:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(*iris())
    return export_sklearn(fitted, path, options={"zipmap": False})


@kind
def scaled_linear_regression(path: Path) -> Inputs:
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return export_sklearn(make_pipeline(StandardScaler(), LinearRegression()).fit(*iris()), path)


@kind
def histogram_boosting(path: Path) -> Inputs:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return export_sklearn(HistGradientBoostingClassifier(max_iter=10).fit(*iris()), path)


@kind
def isolation_forest(path: Path) -> Inputs:
    from skl2onnx import to_onnx
    from sklearn.ensemble import IsolationForest

    features, _ = iris()
    fitted = IsolationForest(n_estimators=10, random_state=SEED).fit(features)
    exported = to_onnx(fitted, features[:1], target_opset={"": OPSET, "ai.onnx.ml": 3})
    path.write_bytes(exported.SerializeToString())
    return {"X": features[::10]}


@kind
def columns_of_strings_and_floats(path: Path) -> Inputs:
    import pandas as pd
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = pd.DataFrame(
        {"age": [22, 38, 26, 35] * 5, "sex": ["male", "female"] * 10, "port": ["S", "C", "Q", "S"] * 5}
    )
    prepared = ColumnTransformer([("n", StandardScaler(), ["age"]), ("c", OneHotEncoder(), ["sex", "port"])])
    fitted = make_pipeline(prepared, LogisticRegression()).fit(frame, [0, 1, 1, 0] * 5)
    types = [
        ("age", FloatTensorType([None, 1])),
        ("sex", StringTensorType([None, 1])),
        ("port", StringTensorType([None, 1])),
    ]
    exported = to_onnx(fitted, initial_types=types, target_opset=OPSET, options={"zipmap": False})
    path.write_bytes(exported.SerializeToString())
    return {
        "age": np.array([[40], [9]], np.float32),
        "sex": np.array([["female"], ["male"]], object),
        "port": np.array([["C"], ["Q"]], object),
    }


@kind
def text(path: Path) -> Inputs:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = ["a good film", "a bad film", "very good indeed", "not good but bad"] * 3
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, [1, 0, 1, 0] * 3)
    exported = to_onnx(fitted, initial_types=[("text", StringTensorType([None, 1]))], target_opset=OPSET)
    path.write_bytes(exported.SerializeToString())
    return {"text": np.array([["a good FILM"], ["bad, überaus bad"]], object)}


# === gradient boosting of three libraries ===


@kind
def lightgbm_classifier(path: Path) -> Inputs:
    import lightgbm

    return _export_with_onnxmltools("lightgbm", lightgbm.LGBMClassifier(n_estimators=10, verbose=-1).fit(*iris()), path)


@kind
def lightgbm_regressor(path: Path) -> Inputs:
    import lightgbm

    return _export_with_onnxmltools("lightgbm", lightgbm.LGBMRegressor(n_estimators=10, verbose=-1).fit(*iris()), path)


@kind
def xgboost_classifier(path: Path) -> Inputs:
    import xgboost

    return _export_with_onnxmltools("xgboost", xgboost.XGBClassifier(n_estimators=10).fit(*iris()), path)


@kind
def xgboost_regressor(path: Path) -> Inputs:
    import xgboost

    return _export_with_onnxmltools("xgboost", xgboost.XGBRegressor(n_estimators=10).fit(*iris()), path)


def _export_with_onnxmltools(library: str, fitted, path: Path) -> Inputs:
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    convert = getattr(onnxmltools, f"convert_{library}")
    exported = convert(fitted, initial_types=[("input", FloatTensorType([None, 4]))], target_opset=15)
    path.write_bytes(exported.SerializeToString())
    return {"input": iris()[0][::10]}


@kind
def catboost_classifier(path: Path) -> Inputs:
    import catboost

    fitted = catboost.CatBoostClassifier(iterations=10, verbose=False, allow_writing_files=False).fit(*iris())
    fitted.save_model(str(path), format="onnx")
    return {"features": iris()[0][::10]}


@kind
def catboost_regressor(path: Path) -> Inputs:
    import catboost

    fitted = catboost.CatBoostRegressor(iterations=10, verbose=False, allow_writing_files=False).fit(*iris())
    fitted.save_model(str(path), format="onnx")
    return {"features": iris()[0][::10]}


# === networks ===


def network(nodes, inputs, outputs, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    def value(name: str, shape: list) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [
            helper.make_node(operator, list(takes), list(gives), **attributes)
            for operator, takes, gives, attributes in nodes
        ],
        "network",
        [value(*each) for each in inputs],
        [value(*each) for each in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    made.ir_version = IR_VERSION
    onnx.checker.check_model(made)
    return made


def perceptron(wide: int = 300) -> onnx.ModelProto:
    nodes = [
        ("MatMul", ["x", "first"], ["hidden"], {}),
        ("Relu", ["hidden"], ["active"], {}),
        ("MatMul", ["active", "second"], ["y"], {}),
    ]
    weights = {"first": drawn(8, wide) / 3, "second": drawn(wide, 3) / 10}
    return network(nodes, [("x", ["batch", 8])], [("y", ["batch", 3])], weights)


@kind
def convolution(path: Path) -> Inputs:
    nodes = [
        ("Conv", ["image", "kernel"], ["mapped"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Relu", ["mapped"], ["active"], {}),
        ("GlobalAveragePool", ["active"], ["pooled"], {}),
        ("Flatten", ["pooled"], ["flat"], {}),
        ("Gemm", ["flat", "dense"], ["scores"], {}),
        ("Softmax", ["scores"], ["probabilities"], {"axis": -1}),
    ]
    weights = {"kernel": drawn(4, 3, 3, 3), "dense": drawn(4, 5)}
    inputs = [("image", ["batch", 3, "height", "width"])]
    onnx.save(network(nodes, inputs, [("probabilities", ["batch", 5])], weights), path)
    return {"image": drawn(2, 3, 16, 12)}


@kind
def transformer_block(path: Path) -> Inputs:
    nodes = [
        ("MatMul", ["tokens", "query"], ["q"], {}),
        ("MatMul", ["tokens", "key"], ["k"], {}),
        ("MatMul", ["tokens", "value"], ["v"], {}),
        ("Transpose", ["k"], ["kt"], {"perm": [0, 2, 1]}),
        ("MatMul", ["q", "kt"], ["raw"], {}),
        ("Softmax", ["raw"], ["attention"], {"axis": -1}),
        ("MatMul", ["attention", "v"], ["mixed"], {}),
        ("Add", ["tokens", "mixed"], ["sum"], {}),
        ("LayerNormalization", ["sum", "scale", "bias"], ["encoded"], {"axis": -1}),
    ]
    weights = {name: drawn(16, 16) / 4 for name in ("query", "key", "value")}
    weights |= {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}
    shape = ["batch", "length", 16]
    onnx.save(network(nodes, [("tokens", shape)], [("encoded", shape)], weights), path)
    return {"tokens": drawn(2, 5, 16)}


@kind
def int8(path: Path) -> Inputs:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("whole.onnx")
    onnx.save(perceptron(), whole)
    quantize_dynamic(whole, path, weight_type=QuantType.QInt8)
    return {"x": drawn(4, 8)}


@kind
def fp16(path: Path) -> Inputs:
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(perceptron()), path)
    return {"x": drawn(4, 8).astype(np.float16)}


@kind
def external_data(path: Path) -> Inputs:
    onnx.save(perceptron(), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return {"x": drawn(4, 8)}


@kind
def over_200_mb(path: Path) -> Inputs:
    nodes = [("MatMul", ["x", "first"], ["hidden"], {}), ("MatMul", ["hidden", "second"], ["y"], {})]
    weights = {"first": drawn(LARGE_COLUMNS, LARGE_COLUMNS) / LARGE_COLUMNS, "second": drawn(LARGE_COLUMNS, 2)}
    made = network(nodes, [("x", ["batch", LARGE_COLUMNS])], [("y", ["batch", 2])], weights)
    onnx.save(made, path)
    assert path.stat().st_size > 200 << 20
    return {"x": drawn(1, LARGE_COLUMNS)}


@kind
def no_batch_dimension(path: Path) -> Inputs:
    nodes = [("MatMul", ["x", "weights"], ["y"], {})]
    onnx.save(network(nodes, [("x", [4])], [("y", [3])], {"weights": drawn(4, 3)}), path)
    return {"x": drawn(4)}


@kind
def scalar(path: Path) -> Inputs:
    nodes = [("Mul", ["x", "factor"], ["y"], {})]
    onnx.save(network(nodes, [("x", [])], [("y", [])], {"factor": np.array(3, np.float32)}), path)
    return {"x": np.array(2.5, np.float32)}
