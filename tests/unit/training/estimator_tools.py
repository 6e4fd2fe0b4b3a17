"""Events, trainings and ONNX sessions for the tests of the adapters of estimators: scikit-learn, XGBoost."""

import numpy as np

from mlaas_condor.training.frameworks import Portion

COLUMNS = 6


def events(count, classes=2, seed=0):
    """Return events and their classes, which the first column tells but for some noise."""
    generator = np.random.default_rng(seed)
    x = generator.random((count, COLUMNS), dtype=np.float32)
    noisy = x[:, 0] + 0.05 * generator.normal(size=count)
    return x, np.clip((noisy * classes).astype(np.int64), 0, classes - 1)


def linear(count, seed=0, offset=3.0):
    """Return events and targets; from an offset of 4 on, all of them are positive."""
    x, _ = events(count, seed=seed)
    return x, offset + x.astype(np.float64) @ np.array([2.0, -1.0, 0.5, 0.0, 4.0, -3.0])


def event_weights(count, seed=1):
    return np.random.default_rng(seed).choice([0.0, 1.0, 2.5], count)


def portions(x, y, weights=None, parts=3):
    def give():
        for rows in np.array_split(np.arange(len(x)), parts):
            yield Portion(x[rows], y[rows], None if weights is None else weights[rows])

    return give


def train(model, x, y, weights=None, passes=30, parts=3):
    """Train as the loop does, on portions; return what each pass or stage told."""
    if model.learning == "passes":
        return [model.fit(x, y, 100, seed, weights) for seed in range(passes)]
    return list(model.fit_whole(portions(x, y, weights, parts), len(x)))


def onnx_scores_of(model, tmp_path, x):
    """Return what the model gives as ONNX, the same for few events as for many."""
    import onnx
    import onnxruntime

    path = tmp_path / "model.onnx"
    model.export_onnx(path)
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [(each.name, each.type, each.shape[1]) for each in inputs] == [
        ("features", "tensor(float)", COLUMNS)
    ]
    assert [(each.name, each.type) for each in outputs] == [("scores", "tensor(float)")]
    found = [session.run(["scores"], {"features": x[:count]})[0] for count in (1, 2, len(x))]
    for some in found:
        np.testing.assert_allclose(some, found[-1][: len(some)], rtol=1e-5, atol=1e-6)
    return found[-1]
