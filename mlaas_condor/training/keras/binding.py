"""Bind TensorFlow and one of the two Keras in this process.

``import keras`` can mean Keras 3 or Keras 2 (``tf_keras``), but only one of them, from the first import
to the end of the process.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from mlaas_condor.errors import FrameworkMissing, ModelFault
from mlaas_condor.training.models import LegacyKerasNeeded

logger = logging.getLogger(__name__)

OLD_MODULES = {
    "layers.advanced_activations": "layers",
    "layers.convolutional": "layers",
    "layers.core": "layers",
    "layers.embeddings": "layers",
    "layers.merge": "layers",
    "layers.noise": "layers",
    "layers.normalization": "layers",
    "layers.pooling": "layers",
    "layers.recurrent": "layers",
    "utils.generic_utils": "utils",
    "utils.np_utils": "utils",
}
"""Modules of early Keras 2 that late Keras 2 dropped, and where their names live there."""

OPTIMIZERS = ("SGD", "RMSprop", "Adam", "Adamax", "Nadam", "Adagrad", "Adadelta", "Ftrl")


def bind(legacy: bool, threads: int, old_optimizers: bool = False) -> ModuleType:
    """Import TensorFlow with one of the two Keras, and return that Keras.

    Parameters
    ----------
    legacy
        Keras 2 instead of Keras 3.
    threads
        CPU threads TensorFlow may use; without effect where TensorFlow is running already.
    old_optimizers
        Keras 2's ``Adam`` and the like are those from before 2.11, which take ``decay``.

    Raises
    ------
    FrameworkMissing
        TensorFlow or the Keras is not installed.
    LegacyKerasNeeded
        Keras 2 is asked for, Keras 3 is already there.
    """
    # Level 3: what goes wrong comes as a Python exception; the rest is talk about GPUs not being there.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        if legacy:
            keras = _bind_keras2(old_optimizers)
        else:
            os.environ["KERAS_BACKEND"] = "tensorflow"
            os.environ["TF_USE_LEGACY_KERAS"] = "0"
            keras = importlib.import_module("keras")
        tensorflow = importlib.import_module("tensorflow")
    except ImportError as error:
        raise FrameworkMissing(
            f"TensorFlow with {'tf_keras' if legacy else 'Keras 3'} cannot be imported where the job runs "
            f"({error}): pip install 'mlaas-condor[tensorflow]'"
        ) from error
    except RuntimeError as error:
        raise LegacyKerasNeeded(f"Keras 2 is needed, but {error}") from error
    if keras.__name__ != ("tf_keras" if legacy else "keras"):
        raise ModelFault("Keras 3 is needed, but this process has bound Keras 2: use another process")
    tensorflow.get_logger().setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    _set_threads(tensorflow.config.threading, threads)
    _grow_memory(tensorflow.config)
    return keras


def _grow_memory(config: Any) -> None:
    """Have TensorFlow take the memory of GPUs as it needs it, not all at once: others may use them too."""
    for gpu in config.list_physical_devices("GPU"):
        try:
            config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            logger.debug("TensorFlow is running already: it has taken the memory of the GPUs")
            return


def _set_threads(threading: Any, threads: int) -> None:
    for kind in ("intra_op", "inter_op"):
        if getattr(threading, f"get_{kind}_parallelism_threads")() == threads:
            continue
        try:
            getattr(threading, f"set_{kind}_parallelism_threads")(threads)
        except RuntimeError:
            logger.warning("TensorFlow is running already: its number of threads stays as it is")
            return


def _bind_keras2(old_optimizers: bool) -> ModuleType:
    """Let ``keras`` and ``tensorflow.keras`` mean Keras 2 in this process, and return it."""
    bound = sys.modules.get("keras")
    if bound is not None and bound is not sys.modules.get("tf_keras"):
        raise RuntimeError("Keras 3 is already imported in this process")
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tf_keras = importlib.import_module("tf_keras")
    tensorflow = importlib.import_module("tensorflow")
    # Dropout and noise keep their random state in variables, where a checkpoint gets at it.
    tf_keras.backend.experimental.enable_tf_random_generator()
    modules = {"": tf_keras, **_public_modules(tf_keras)}
    modules |= {old: modules[new] for old, new in OLD_MODULES.items()}
    for name, module in modules.items():
        for root in ("keras", "tensorflow.keras"):
            sys.modules[f"{root}.{name}" if name else root] = module
    # `from keras.layers import core` looks for an attribute before it looks for a module.
    for name in OLD_MODULES:
        owner, _, last = name.rpartition(".")
        if not hasattr(modules[owner], last):
            setattr(modules[owner], last, modules[name])
    tensorflow.keras = tf_keras  # type: ignore[attr-defined]
    if old_optimizers:
        for name in OPTIMIZERS:
            setattr(tf_keras.optimizers, name, getattr(tf_keras.optimizers.legacy, name))
    return tf_keras


def _public_modules(package: ModuleType, below: str = "") -> dict[str, ModuleType]:
    """Return the modules of Keras 2's public interface by name, without the ``tf_keras.`` in front."""
    found: dict[str, ModuleType] = {}
    for entry in pkgutil.iter_modules(package.__path__):
        if entry.name in ("api", "src", "protobuf") or entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        found[below + entry.name] = module
        if entry.ispkg:
            found |= _public_modules(module, f"{below}{entry.name}.")
    return found


def is_refusal(error: BaseException, keras: ModuleType) -> bool:
    """Tell whether Keras 3 would not take what the user wrote, and Keras 2 is there to be asked."""
    if importlib.util.find_spec("tf_keras") is None:
        return False
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] in ("keras", "tensorflow"):
        return True
    if isinstance(error, AttributeError):
        owner = error.obj
        home = owner.__name__ if isinstance(owner, ModuleType) else type(owner).__module__
        return home.split(".")[0] == "keras"
    if not isinstance(error, (ValueError, TypeError, ImportError)):
        return False
    if "unexpected keyword argument" in str(error):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(keras.__file__ or "").parent
    return bool(frames) and Path(frames[-1].filename).is_relative_to(package)
