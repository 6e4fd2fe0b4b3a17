"""What tests of every layer use: small ROOT files of ours, and a request on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import uuid
from pathlib import Path

import hypothesis
import pytest

# Loaded after TensorFlow it ends the process: whichever test needs one of them first, this comes before.
with contextlib.suppress(ImportError):
    import XRootD.client  # noqa: F401

# onnxruntime reports on its users by default, also where a test imports it by itself.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The first example of a test may import a library; how long it takes says nothing.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")

MODEL = """\
import keras


def model(idim):
    network = keras.Sequential([keras.Input((idim,)), keras.layers.Dense(1, activation="sigmoid")])
    network.compile(optimizer="adam", loss="binary_crossentropy")
    return network
"""


@pytest.fixture(autouse=True)
def isolated(request, tmp_path_factory, monkeypatch):
    """Keep every test away from the settings and the runs of whoever runs them."""
    if request.node.get_closest_marker("pool"):
        return  # the pool's own fixtures say where it is
    for name in [name for name in os.environ if name.startswith("MLAAS_")]:
        monkeypatch.delenv(name)
    own = tmp_path_factory.mktemp("isolated")
    monkeypatch.setenv("MLAAS_CONDOR_HOME", str(own / "home"))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(own / name.lower()))
    for name in ("CONDOR_CONFIG", "X509_USER_PROXY", "X509_CERT_DIR", "BEARER_TOKEN", "BEARER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    if remote := sys.modules.get("mlaas_condor.data.remote"):
        remote._silent.clear()  # hosts that did not answer another test


def events_of(n, seed):
    """Return arrays of several dtypes, flat and jagged, with identifiers, NaN, and lists that are empty."""
    import awkward as ak
    import numpy as np

    rng = np.random.default_rng(seed)

    def lists(dtype, most, scale=100):
        counts = rng.integers(0, most + 1, n)
        return ak.unflatten((rng.random(counts.sum()) * scale).astype(dtype), counts)

    met = rng.exponential(50, n)
    met[::7] = np.nan
    return {
        "run": np.full(n, 1, np.uint32),
        "event": rng.permutation(n).astype(np.uint64) + np.uint64(2**40 * (seed + 1)),
        "met": met,
        "njets": rng.integers(0, 12, n).astype(np.int32),
        "charge": rng.integers(-1, 2, n).astype(np.int8),
        "trigger": rng.random(n) < 0.5,
        "constant": np.full(n, 7.5, np.float32),
        "jet_pt": lists(np.float32, 4),
        "jet_id": lists(np.int32, 3, 9),
        "never": ak.unflatten(np.zeros(0, np.float64), np.zeros(n, np.int64)),
    }


def write_tree(path, events, tree="events"):
    """Write arrays as a TTree; the same name and events give the same content and UUID."""
    import awkward as ak
    import numpy as np
    import uproot

    own = uuid.UUID(bytes=hashlib.sha256(f"{path.name} {tree}".encode()).digest()[:16])
    with uproot.recreate(path, uuid_function=lambda: own, compression=uproot.ZLIB(1)) as file:
        jagged = {name: array for name, array in events.items() if isinstance(array, ak.Array)}
        types = {
            name: f"var * {ak.type(array).content.content}"
            if name in jagged
            else np.dtype((np.asarray(array).dtype, np.shape(array)[1:]))
            for name, array in events.items()
        }
        # Each list gets a branch with its lengths; with one underscore before it nothing else is called so.
        made = file.mktree(tree, types, counter_name=lambda name: f"_n_{name}")
        if len(next(iter(events.values()))):
            made.extend(events)
    return path


@pytest.fixture
def mktree(tmp_path):
    """Make a ROOT file: ``mktree("a.root", 30, seed=1, pt=array)``; arrays replace or add branches."""

    def make(name="a.root", n=30, seed=0, tree="events", only=None, **branches):
        path = Path(tmp_path, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        events = {**(events_of(n, seed) if only is None else only), **branches}
        return write_tree(path, {name: each for name, each in events.items() if each is not None}, tree)

    return make


@pytest.fixture
def request_folder(tmp_path, mktree):
    """A folder with a request that is right: two files, two classes, the smallest of models."""
    mktree("request/data/signal.root", 40, seed=1)
    mktree("request/data/background.root", 60, seed=2)
    folder = tmp_path / "request"
    job = {
        "name": "tiny",
        "files": "files.txt",
        "labels": "labels.txt",
        "model": "model.py",
        "params": "params.json",
    }
    params = {
        "branch": "events", "identifier": ["run", "event"], "chunk_size": 30, "epochs": 1,
        "exclude_branches": "_n_*",
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job, indent=1))
    (folder / "params.json").write_text(json.dumps(params, indent=1))
    (folder / "files.txt").write_text("# signal first\n\ndata/signal.root\ndata/background.root\n")
    (folder / "labels.txt").write_text("1\n0\n")
    (folder / "model.py").write_text(MODEL)
    return folder


@pytest.fixture
def change(request_folder):
    """Change keys of the request's ``job.json`` or ``params.json``; a value of None takes the key away."""

    def edit(_name="job", **keys):
        path = request_folder / f"{_name}.json"
        content = {**json.loads(path.read_text()), **keys}
        path.write_text(
            json.dumps({key: value for key, value in content.items() if value is not None}, indent=1)
        )
        return path

    return edit


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line as the installed program does; give exit code, stdout and stderr."""

    from mlaas_condor.cli.main import run

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["mlaas-condor", *map(str, arguments)])
        try:
            run()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the files of tests/unit/golden anew")
