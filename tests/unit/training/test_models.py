import sys
from pathlib import Path

import pytest

from mlaas_condor.errors import ModelFault, OutOfMemory
from mlaas_condor.training import models

ROOT = Path(__file__).parents[3]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.delenv(models.LEGACY_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write_file(text, name="model.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


@pytest.mark.parametrize(
    ("imports", "framework"),
    [
        ("import keras", "keras"),
        ("from keras import layers", "keras"),
        ("import tensorflow as tf", "keras"),
        ("from tensorflow.keras import layers", "keras"),
        ("import tf_keras", "keras2"),
        ("import torch.nn as nn", "torch"),
        ("from xgboost import XGBClassifier", "xgboost"),
        ("from sklearn.ensemble import RandomForestClassifier", "sklearn"),
        ("import xgboost\nimport sklearn.base", "xgboost"),
        ("from sklearn.preprocessing import scale\nimport keras", "keras"),
    ],
)
def test_framework_is_seen_from_imports(write, imports, framework):
    assert models.check(write(f"{imports}\ndef model(idim): return idim")).framework == framework


def test_an_import_within_the_function_counts(write):
    assert models.check(write("def model():\n    import torch\n    return torch")).framework == "torch"


def test_nothing_is_run_and_no_framework_imported(write, tmp_path):
    import subprocess

    path = write("import keras\nopen('ran', 'w')\nraise SystemExit(9)\ndef model(idim): return 1")
    code = (
        "import sys; from pathlib import Path; from mlaas_condor.training import models;"
        "models.check(Path(sys.argv[1]));"
        "print([m for m in ('numpy', 'keras', 'tensorflow', 'tf_keras') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("signature", "takes_idim"),
    [
        ("idim", True),
        ("columns", True),
        ("idim, width=64", True),
        ("idim, *, width=64", True),
        ("idim, /", True),
        ("idim=10", True),
        ("", False),
        ("depth=3", False),
        ("*args, **kwargs", False),
        ("*, depth=3", False),
    ],
)
def test_signatures_that_can_be_called(write, signature, takes_idim):
    path = write(f"import sklearn\ndef model({signature}):\n    return 'made'")
    found = models.check(path)
    assert found.takes_idim is takes_idim
    # What check promises, build must be able to do.
    assert models.build(found, 5) == "made"


@pytest.mark.parametrize("signature", ["idim, width", "idim, *, width", "*, idim"])
def test_signatures_that_cannot_be_called(write, signature):
    with pytest.raises(ModelFault, match=r"model\.py:3: model\(.*\) cannot be called"):
        models.check(write(f"import sklearn\n\ndef model({signature}): return 1"))


def test_syntax_error_gives_the_line(write):
    with pytest.raises(ModelFault, match=r"model\.py:3: .*never closed.*x = \("):
        models.check(write("import sklearn\ndef model(idim):\n    x = ("))


def test_no_function_model_names_those_there(write):
    with pytest.raises(ModelFault, match=r"no function `model` \(functions in the file: build, other\)"):
        models.check(write("import sklearn\ndef other(): ...\ndef build(): ..."))
    with pytest.raises(ModelFault, match="functions in the file: none"):
        models.check(write("import sklearn\nmodel = 3"))


def test_no_framework_is_a_fault(write):
    with pytest.raises(ModelFault, match="imports none of keras, tensorflow, torch"):
        models.check(write("import math\ndef model(idim): ..."))


@pytest.mark.parametrize("content", [b"\x00", b"\xff\xfe", b"def model(" * 3])
def test_what_is_no_python_is_a_fault(tmp_path, content):
    path = tmp_path / "model.py"
    path.write_bytes(content)
    with pytest.raises(ModelFault, match=r"model\.py"):
        models.check(path)


def test_a_missing_file_is_a_fault(tmp_path):
    with pytest.raises(ModelFault, match="No such file"):
        models.check(tmp_path / "model.py")


def test_legacy_variable_chooses_keras2(write, monkeypatch):
    path = write("import keras\ndef model(idim): return 1")
    assert models.check(path).framework == "keras"
    monkeypatch.setenv(models.LEGACY_VARIABLE, "1")
    found = models.check(path)
    assert found.framework == "keras2"
    assert models.LEGACY_VARIABLE in found.reason


def test_legacy_variable_leaves_other_frameworks_alone(write, monkeypatch):
    monkeypatch.setenv(models.LEGACY_VARIABLE, "1")
    assert models.check(write("import torch\ndef model(idim): return 1")).framework == "torch"


def test_a_failing_import_gives_the_users_line(write):
    path = write("import sklearn\nimport json\n\nvalue = json.loads('{')\ndef model(idim): return 1")
    with pytest.raises(ModelFault, match=r"model\.py:4: JSONDecodeError: [\s\S]*value = json\.loads"):
        models.load(models.check(path))


def test_a_failing_function_gives_the_innermost_line_of_the_user(write):
    path = write("import sklearn\ndef half(n):\n    return n / 0\ndef model(idim):\n    return half(idim)")
    with pytest.raises(ModelFault, match=r"model\.py:3: ZeroDivisionError") as caught:
        models.build(models.check(path), 4)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_exit_is_a_fault_and_memory_is_memory(write):
    with pytest.raises(ModelFault, match="SystemExit"):
        models.load(models.check(write("import sklearn\nraise SystemExit(3)\ndef model(idim): ...")))
    with pytest.raises(OutOfMemory):
        models.build(models.check(write("import sklearn\ndef model(idim): raise MemoryError")), 4)


def test_a_model_that_returns_nothing(write):
    with pytest.raises(ModelFault, match="returns nothing"):
        models.build(models.check(write("import sklearn\ndef model(idim): idim + 1")), 4)


def test_files_beside_the_model_can_be_imported_but_shadow_nothing(write):
    write("WIDTH = 7", "shapes_of_mine.py")
    write("raise RuntimeError('the wrong json')", "json.py")
    path = write(
        "import sklearn\nimport json\nfrom shapes_of_mine import WIDTH\ndef model(idim): return WIDTH + idim"
    )
    assert models.build(models.check(path), 1) == 8


def test_load_names_are_the_users_own(write):
    path = write("import sklearn\nfrom pathlib import Path\nclass Mine: ...\ndef model(idim): ...")
    assert set(models.load_names(models.check(path))) == {"Mine", "model"}


def test_brief_is_one_line_of_bounded_length():
    text = models.brief(ValueError("a\n\n  b" + "c" * 900 + "\n\nArguments received by Dense.call(): …"), 50)
    assert text.startswith("a bc")
    assert len(text) <= 50
    assert "\n" not in text
