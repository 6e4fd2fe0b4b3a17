"""What the Keras adapter refuses, and the errors that it gives."""

import sys

import pytest
from keras_tools import COLUMNS, OLD, events, maker, text

from mlaas_condor.errors import FrameworkMissing, ModelFault, OutOfMemory, StorageFull
from mlaas_condor.training import frameworks, models
from mlaas_condor.training.frameworks import Setup
from mlaas_condor.training.models import LegacyKerasNeeded

# What TensorFlow's own Python code does on import, by the module that does it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:keras"),
]


@pytest.fixture
def make(tmp_path, monkeypatch):
    return maker(tmp_path, monkeypatch)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_wrong_columns_name_those_expected(make, call):
    x, y = events(20)
    model = make(text())
    arguments = {"fit": (x[:, :4], y, 10), "evaluate": (x[:, :4], y), "predict": (x[:, :4],)}
    with pytest.raises(ModelFault, match=r"model\.py: made for 6 columns, given events of shape \(20, 4\)"):
        getattr(model, call)(*arguments[call])


def test_a_network_of_the_wrong_width(make):
    with pytest.raises(ModelFault, match=r"(?s)events of 6 columns.*shape"):
        make(text().replace("keras.Input((idim,))", "keras.Input((idim + 1,))"))


def test_more_classes_than_scores(make):
    x, y = events(90, classes=3)
    with pytest.raises(ModelFault, match=r"3 classes, the model gives 1 score"):
        make(text()).fit(x, y, 10)


def test_an_output_that_is_no_score(make):
    with pytest.raises(ModelFault, match=r"one score, or one a class; for 2 events the model returns shape"):
        make(text(middle="keras.layers.Reshape((4, 2)),"))


def test_no_keras_model(make):
    with pytest.raises(ModelFault, match="returns a dict, no Keras model"):
        make("import keras\ndef model(idim): return {}")


def test_the_users_own_error_is_not_blamed_on_keras(make):
    with pytest.raises(ModelFault, match=r"model\.py:2: ValueError: mine") as caught:
        make("import keras\ndef model(idim): raise ValueError('mine')")
    assert not isinstance(caught.value, LegacyKerasNeeded)


@pytest.mark.parametrize(
    "line",
    [
        "keras.optimizers.Adam(**{'lr': 0.1})",
        "getattr(keras.layers, 'LocallyConnected1D')",
        "keras.Sequential([keras.layers.Dense(1)]).compile('sgd', 'mse', **{'target_tensors': None})",
        "__import__('keras.preprocessing.text')",
        "keras.Sequential().fit_generator",
    ],
)
def test_old_code_that_only_shows_when_it_is_run(make, line):
    with pytest.raises(LegacyKerasNeeded, match=r"model\.py:2: [\s\S]*Keras 3 refuses this"):
        make(f"import keras\ndef model(idim): {line}")


def test_a_file_for_keras2_in_a_process_with_keras3(make):
    make(text())
    with pytest.raises(LegacyKerasNeeded, match="Keras 3 is already imported"):
        frameworks.open_adapter(models.check(OLD), Setup(COLUMNS, 1, 1))


def test_out_of_memory_and_a_full_disk(make, tmp_path, monkeypatch):
    import tensorflow

    x, y = events(20)
    model = make(text())
    for error in (MemoryError(), tensorflow.errors.ResourceExhaustedError(None, None, "OOM")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(model._passes, "run", fail)
        with pytest.raises(OutOfMemory, match="no memory left for 20 events of 6 columns"):
            model.fit(x, y, 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model._model, "export", full)
    with pytest.raises(StorageFull):
        model.save(tmp_path / "out")


def test_what_is_not_installed_says_how_to_install_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'mlaas-condor\[tensorflow\]'"):
        make("import keras\ndef model(idim): ...")
