"""Model files written for Keras 2: how to know one without running it.

Every rule here stands for something that Keras 3 refuses and that works once Keras 2 is bound; the tests
try each on the installed Keras 3 and on ``tf_keras``. A file that no rule finds, and that Keras 3 refuses
all the same, is found when it is built (``models.LegacyKerasNeeded``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

GONE = frozenset(
    {
        "keras.estimator",
        "keras.experimental",
        "keras.layers.AbstractRNNCell",
        "keras.layers.DenseFeatures",
        "keras.layers.LocallyConnected1D",
        "keras.layers.LocallyConnected2D",
        "keras.layers.ThresholdedReLU",
        "keras.layers.advanced_activations",
        "keras.layers.convolutional",
        "keras.layers.core",
        "keras.layers.embeddings",
        "keras.layers.experimental",
        "keras.layers.merge",
        "keras.layers.noise",
        "keras.layers.normalization",
        "keras.layers.pooling",
        "keras.layers.recurrent",
        "keras.optimizers.experimental",
        "keras.optimizers.legacy",
        "keras.preprocessing.text",
        "keras.utils.generic_utils",
        "keras.utils.np_utils",
    }
)
"""Modules and classes that Keras 3 no longer has (or, ``optimizers.legacy``, only to refuse them)."""

KEYWORDS = {
    "keras.optimizers.": frozenset({"lr", "decay"}),
    "keras.layers.": frozenset({"batch_input_shape"}),
    "keras.layers.BatchNormalization": frozenset({"fused"}),
    "keras.layers.LSTM": frozenset({"time_major"}),
    "keras.layers.GRU": frozenset({"time_major"}),
}
"""Keyword arguments that Keras 3 no longer takes, by the beginning of the name that is called.

``decay`` is the exception: Keras 3 drops it with a warning, and trains something else.
"""

COMPILE_KEYWORDS = frozenset({"experimental_run_tf_function", "sample_weight_mode", "target_tensors"})
"""The same for ``.compile(…)``, whatever the name of the model."""

BACKEND = frozenset(
    {
        "backend",
        "clear_session",
        "common",
        "config",
        "epsilon",
        "floatx",
        "get_uid",
        "image_data_format",
        "is_float_dtype",
        "is_int_dtype",
        "is_keras_tensor",
        "result_type",
        "set_epsilon",
        "set_floatx",
        "set_image_data_format",
        "standardize_dtype",
    }
)
"""All that Keras 3 left in ``keras.backend``; ``tf.keras.backend`` still has the rest."""


@dataclass(frozen=True)
class Refusal:
    """Something in a model file that Keras 3 refuses: the line, and the code in short."""

    line: int
    what: str


def first_refusal(tree: ast.Module) -> Refusal | None:
    """Return the first thing in a parsed model file that Keras 3 is known to refuse."""
    return min(_refusals(tree), key=lambda refusal: refusal.line, default=None)


def uses_decay(tree: ast.Module) -> bool:
    """Tell whether an optimizer is given ``decay``, which only Keras 2's older optimizers take."""
    names = _imported_names(tree)
    return any(
        (_dotted(call.func, names) or "").startswith("keras.optimizers.") and _keyword(call, {"decay"})
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
    )


def _refusals(tree: ast.Module) -> Iterator[Refusal]:
    names = _imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                if _is_gone(_plain(name.name)):
                    yield Refusal(node.lineno, f"import {name.name}")
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                if _is_gone(_plain(f"{node.module}.{name.name}")) or _left_backend(node.module, name.name):
                    yield Refusal(node.lineno, f"from {node.module} import {name.name}")
        elif isinstance(node, ast.Attribute):
            yield from _attribute_refusal(node, names)
        elif isinstance(node, ast.Call):
            yield from _call_refusal(node, names)


def _attribute_refusal(node: ast.Attribute, names: dict[str, str]) -> Iterator[Refusal]:
    dotted = _dotted(node, names) or ""
    written = ast.unparse(node)
    if dotted in GONE:
        yield Refusal(node.lineno, written)
    owner = _written(node.value, names) or ""
    if _left_backend(owner, node.attr):
        yield Refusal(node.lineno, written)


def _call_refusal(call: ast.Call, names: dict[str, str]) -> Iterator[Refusal]:
    dotted = _dotted(call.func, names) or ""
    short = dotted.rpartition(".")[2]
    for prefix, keywords in KEYWORDS.items():
        found = _keyword(call, keywords) if dotted.startswith(prefix) else None
        if found:
            yield Refusal(call.lineno, f"{short}({found}=…)")
    if isinstance(call.func, ast.Attribute) and call.func.attr == "compile":
        found = _keyword(call, COMPILE_KEYWORDS)
        if found:
            yield Refusal(call.lineno, f"compile({found}=…)")


def _keyword(call: ast.Call, keywords: frozenset[str] | set[str]) -> str | None:
    return next((word.arg for word in call.keywords if word.arg in keywords), None)


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for, as written: ``{"tf": "tensorflow", …}``."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                root = name.name.partition(".")[0]
                names[name.asname or root] = name.name if name.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                names[name.asname or name.name] = f"{node.module}.{name.name}"
    return names


def _written(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return the full name of a chain of attributes that starts at an import, else None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _written(node.value, names)
        return f"{owner}.{node.attr}" if owner else None
    return None


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    written = _written(node, names)
    return _plain(written) if written else None


def _plain(name: str) -> str:
    """Return the name under ``keras`` of what TensorFlow also offers under its own."""
    for prefix in ("tensorflow.keras", "tensorflow.optimizers"):
        if name == prefix or name.startswith(prefix + "."):
            return "keras" + name.removeprefix("tensorflow").removeprefix(".keras")
    return name


def _is_gone(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in GONE for length in range(1, len(parts) + 1))


def _left_backend(module: str, name: str) -> bool:
    return module == "keras.backend" and name not in BACKEND and not name.startswith("_")
