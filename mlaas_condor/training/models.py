"""The user's model file: what it is (without running it), and the model it makes.

``check`` only parses, so the submit side can call it where no framework is installed; ``load`` and
``build`` run the user's code, where the training happens.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlaas_condor import usercode
from mlaas_condor.errors import ModelFault, OutOfMemory
from mlaas_condor.training import keras2

Framework = Literal["keras", "keras2", "torch", "sklearn", "xgboost"]

LEGACY_VARIABLE = "MLAAS_LEGACY_KERAS"
"""Set to 1 in the environment: every Keras model is trained with Keras 2."""

MODULE_NAME = "mlaas_condor_user_model"

# Whoever imports Keras may well use scikit-learn for a scaler beside it, and XGBoost models often come
# with scikit-learn's wrappers: the first of these that is imported says what the model is.
_IMPORTS: tuple[tuple[Framework, tuple[str, ...]], ...] = (
    ("keras2", ("tf_keras",)),
    ("keras", ("keras", "tensorflow")),
    ("torch", ("torch", "lightning", "pytorch_lightning")),
    ("xgboost", ("xgboost",)),
    ("sklearn", ("sklearn",)),
)


class LegacyKerasNeeded(ModelFault):
    """Keras 3 refuses the model file; Keras 2 may take it.

    One process can hold only one of the two, so whoever catches this starts itself again with
    ``MLAAS_LEGACY_KERAS=1`` in the environment.
    """


@dataclass(frozen=True)
class ModelFile:
    """What is known of a model file before it is run.

    Parameters
    ----------
    path
        The file.
    framework
        The library that trains the model; ``keras2`` is Keras 2 as packaged in ``tf_keras``.
    takes_idim
        Whether ``model`` is called with the number of columns.
    keywords
        Further arguments of ``model`` that may be given by name; None: any.
    names
        Names that the file imports or reaches by a dot, and of arguments it gives: to guess what it makes.
    reason
        Why this framework, in a sentence for the user; empty where the imports say it all.
    old_optimizers
        The file gives an optimizer ``decay``, which only the older half of Keras 2 understands.
    """

    path: Path
    framework: Framework
    takes_idim: bool
    keywords: tuple[str, ...] | None = ()
    names: frozenset[str] = frozenset()
    reason: str = ""
    old_optimizers: bool = False


def check(path: Path) -> ModelFile:
    """Parse a model file and say what it is; nothing in it is run.

    Raises
    ------
    ModelFault
        The file cannot be read or parsed, has no function ``model`` that can be called with the
        number of columns or with nothing, or imports no framework known here.
    """
    tree = _parse(path)
    function = _find_function(path, tree)
    takes_idim = _takes_idim(path, function)
    framework = _find_framework(path, tree)
    reason = ""
    if framework == "keras":
        refusal = keras2.first_refusal(tree)
        if refusal is not None:
            framework = "keras2"
            reason = (
                f"{path.name}:{refusal.line}: {refusal.what} is refused by Keras 3; "
                "trained with tf_keras (Keras 2)"
            )
        elif os.environ.get(LEGACY_VARIABLE) == "1":
            framework = "keras2"
            reason = f"{path.name}: {LEGACY_VARIABLE}=1 is set; trained with tf_keras (Keras 2)"
    old_optimizers = framework == "keras2" and keras2.uses_decay(tree)
    names = frozenset(_used_names(tree))
    return ModelFile(
        path, framework, takes_idim, _keywords(function, takes_idim), names, reason, old_optimizers
    )


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=path.name)
    except OSError as error:
        raise ModelFault(f"{path}: cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        code = f": {error.text.strip()}" if error.text and error.text.strip() else ""
        raise ModelFault(f"{path.name}:{error.lineno or 1}: {error.msg}{code}") from error
    except (ValueError, RecursionError) as error:
        raise ModelFault(f"{path.name}: is not a Python file: {error}") from error


def _find_function(path: Path, tree: ast.Module) -> ast.FunctionDef:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if "model" in functions:
        return functions["model"]
    there = ", ".join(sorted(functions)) or "none"
    raise ModelFault(f"{path.name}: no function `model` (functions in the file: {there})")


def companions(path: Path) -> list[Path]:
    """Return the user's own modules and packages beside a model file that it imports, directly or not."""
    found: dict[Path, None] = {}
    todo = [path]
    while todo:
        try:
            tree = ast.parse(todo.pop().read_bytes())
        except (SyntaxError, OSError, ValueError):
            continue  # the job will say it, with its line
        for root in _imported(tree):
            module, package = path.with_name(f"{root}.py"), path.with_name(root)
            beside = module if module.is_file() else package if (package / "__init__.py").is_file() else None
            if beside and beside != path and beside not in found:
                found[beside] = None
                todo += [beside] if beside is module else sorted(package.rglob("*.py"))
    return sorted(found)


def _imported(tree: ast.Module) -> set[str]:
    """Return the first part of every module name that a file imports."""
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots.update(name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return roots


def _takes_idim(path: Path, function: ast.FunctionDef) -> bool:
    """Tell ``model(idim)`` from ``model()``; arguments with a default do not count, unless named idim."""
    arguments = function.args
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    required = positional[: len(positional) - len(arguments.defaults)]
    bare = [
        argument.arg
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is None
    ]
    if len(required) > 1 or bare:
        raise ModelFault(
            f"{path.name}:{function.lineno}: model({', '.join([*required, *bare])}) cannot be called: "
            "write `def model(idim)`, with the number of columns, or `def model()`; "
            "further arguments need a default"
        )
    return bool(required) or positional[:1] == ["idim"]


def _keywords(function: ast.FunctionDef, takes_idim: bool) -> tuple[str, ...] | None:
    """Return the names of the arguments beside the number of columns; None where it takes any."""
    arguments = function.args
    if arguments.kwarg:
        return None
    named = [argument.arg for argument in (*arguments.args, *arguments.kwonlyargs)]
    first = len(arguments.posonlyargs) == 0 and takes_idim
    return tuple(named[1:] if first else named)


def _used_names(tree: ast.Module) -> set[str]:
    """Return the names in a file that are imported or reached by a dot, and those of arguments given."""
    nodes = list(ast.walk(tree))
    imported = {name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    given = {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    return imported | given | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _find_framework(path: Path, tree: ast.Module) -> Framework:
    roots = _imported(tree)
    for framework, modules in _IMPORTS:
        if roots.intersection(modules):
            return framework
    raise ModelFault(
        f"{path.name}: imports none of keras, tensorflow, torch, sklearn, xgboost: "
        "which of them makes the model must be seen from an import in this file"
    )


def load(model_file: ModelFile) -> Callable[..., Any]:
    """Run the model file and return its function ``model``.

    Raises
    ------
    ModelFault
        The file fails; the message gives the line of the user's own code.
    OutOfMemory
        It fails for want of memory.
    """
    path = model_file.path
    try:
        module = usercode.run(path, MODULE_NAME)
    except (Exception, SystemExit) as error:
        raise user_fault(path, error) from error
    function = getattr(module, "model", None)
    if not callable(function):
        raise ModelFault(f"{path.name}: `model` is no function once the file has run")
    return function  # type: ignore[no-any-return]


def load_names(model_file: ModelFile) -> dict[str, Any]:
    """Run the model file and return the classes and functions it defines, by name; errors as ``load``."""
    load(model_file)
    names = vars(sys.modules[MODULE_NAME])
    return {k: v for k, v in names.items() if getattr(v, "__module__", None) == MODULE_NAME}


def build(model_file: ModelFile, idim: int, arguments: Mapping[str, Any] | None = None) -> Any:
    """Run the model file and return the model it makes for ``idim`` columns.

    Parameters
    ----------
    model_file, idim
        The file, and the number of columns; not given to a function that does not take it.
    arguments
        Keyword arguments of the user's function beside it.

    Raises
    ------
    ModelFault
        The file or its function fails, or returns nothing.
    OutOfMemory
        It fails for want of memory.
    """
    function = load(model_file)
    try:
        model = function(*([idim] if model_file.takes_idim else []), **(arguments or {}))
    except (Exception, SystemExit) as error:
        raise user_fault(model_file.path, error) from error
    if model is None:
        raise ModelFault(f"{model_file.path.name}: `model` returns nothing: it must return the model")
    return model


def user_fault(path: Path, error: BaseException) -> ModelFault | OutOfMemory:
    """Return the error to raise for one that the user's code let out, with the line it came from.

    Parameters
    ----------
    path
        The user's file; the innermost line of the traceback that lies in it is shown.
    error
        What was caught.
    """
    if isinstance(error, MemoryError):
        return OutOfMemory(f"{path.name}: no memory left to build the model: ask for more in job.json")
    what = f"{type(error).__name__}: {brief(error)}"
    if isinstance(error, SyntaxError):
        return ModelFault(f"{path.name}:{error.lineno or 1}: {what}")
    own = str(path.absolute())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if str(Path(frame.filename).absolute()) == own
    ]
    if not frames:
        return ModelFault(f"{path.name}: {what}")
    line = f"\n    {frames[-1].line}" if frames[-1].line else ""
    return ModelFault(f"{path.name}:{frames[-1].lineno}: {what}{line}")


def brief(error: BaseException, longest: int = 400) -> str:
    """Return an error's message on one line, without the pages that frameworks append to it."""
    text = " ".join(str(error).partition("Arguments received by")[0].split())
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"
