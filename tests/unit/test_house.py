"""The house: which part may import which, and what is public."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mlaas_condor

PACKAGE = Path(mlaas_condor.__file__).parent
ROOT = PACKAGE.parent
CLI = ROOT / "cli"
SERVER = ROOT / "server"
FOLDERS = {"mlaas_condor": PACKAGE, "mlaas_condor.cli": CLI, "mlaas_condor.server": SERVER}
MODULES = {
    ".".join((name, *path.relative_to(folder).with_suffix("").parts)): path
    for name, folder in FOLDERS.items()
    for path in folder.rglob("*.py")
}
FRAMEWORKS = {"tensorflow", "keras", "tf_keras", "torch", "sklearn", "xgboost"}
GRID_LIBRARIES = {"cryptography", "asn1crypto", "XRootD"}
SERVICE = {"mlaas_condor.server", "flask", "flask_openapi3", "granian", "jwt", "prometheus_client", "orjson"}
HEAVY = {
    "uproot",
    "awkward",
    "numpy",
    "htcondor2",
    "classad2",
    "pydantic",
    "blosc2",
    "matplotlib",
    *(SERVICE - {"mlaas_condor.server"}),
    *GRID_LIBRARIES,
    *FRAMEWORKS,
}
NAMES = {path: name for name, path in MODULES.items()}


def imports(path):
    """Return the modules that a file imports, also within functions; by their whole names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = NAMES[path].split(".")[: -node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{name.name}" for name in node.names}
    return found


def part(prefix):
    return [pytest.param(path, id=name) for name, path in sorted(MODULES.items()) if name.startswith(prefix)]


def starts(names, prefixes):
    return sorted(name for name in names if name.startswith(tuple(prefixes)))


def within(name, modules):
    """Tell whether something is one of these modules, or in one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def test_imports_are_found_however_they_are_written():
    grid = imports(PACKAGE / "grid" / "proxy.py")
    assert {"mlaas_condor.errors", "mlaas_condor.grid.certificates", "mlaas_condor.grid.times"} <= grid
    assert "mlaas_condor.cli.common" in imports(CLI / "proxy.py")
    assert "mlaas_condor.grid.xrootd" in imports(PACKAGE / "data" / "storage.py")


@pytest.mark.parametrize("path", [*part("mlaas_condor.data"), *part("mlaas_condor.training")])
def test_data_and_training_know_nothing_of_htcondor_or_of_those_above(path):
    above = [
        f"mlaas_condor.{name}"
        for name in (
            "batch", "workflow", "cli", "local", "prepare", "stages", "run", "inference", "access",
            "chunkstore", "renewing", "server",
        )
    ]  # fmt: skip
    assert starts(imports(path), [*above, "htcondor", "classad"]) == []


@pytest.mark.parametrize("path", part("mlaas_condor.data"))
def test_data_knows_nothing_of_frameworks_and_training(path):
    assert starts(imports(path), [*FRAMEWORKS, "mlaas_condor.training", "mlaas_condor.request"]) == []


@pytest.mark.parametrize("path", part("mlaas_condor.grid"))
def test_grid_knows_nothing_of_runs_and_data(path):
    found = imports(path) - {"mlaas_condor"}
    ours = {name for name in found if within(name, ["mlaas_condor"])}
    allowed = [f"mlaas_condor.{name}" for name in ("errors", "jsonfile", "grid")]
    assert sorted(name for name in ours if not within(name, allowed)) == []
    others = {name.partition(".")[0] for name in found - ours} - sys.stdlib_module_names
    assert others <= {"pydantic", *GRID_LIBRARIES}


@pytest.mark.parametrize(
    "path", [each for each in part("mlaas_condor") if not each.id.startswith("mlaas_condor.grid")]
)
def test_only_grid_imports_what_proxies_and_xrootd_need(path):
    own = {"cryptography"} if NAMES[path] == "mlaas_condor.server.login.keys" else set()  # of an issuer
    assert sorted(name for name in imports(path) if within(name, GRID_LIBRARIES - own)) == []


@pytest.mark.parametrize(
    "path", [each for each in part("mlaas_condor") if not each.id.startswith("mlaas_condor.server")]
)
def test_nothing_imports_the_service_or_what_it_is_made_with(path):
    assert sorted(name for name in imports(path) if within(name, SERVICE)) == []


@pytest.mark.parametrize(
    "path", [each for each in part("mlaas_condor") if not each.id.startswith("mlaas_condor.batch")]
)
def test_only_batch_imports_htcondor(path):
    assert starts(imports(path), ["htcondor", "classad"]) == []


@pytest.mark.parametrize(
    "path", [each for each in part("mlaas_condor") if not within(each.id, ["mlaas_condor.cli"])]
)
def test_nothing_imports_the_command_line(path):
    assert sorted(name for name in imports(path) if within(name, ["mlaas_condor.cli", "typer"])) == []


@pytest.mark.parametrize("path", part("mlaas_condor.stages"))
def test_stages_do_not_submit(path):
    assert (
        starts(imports(path), ["mlaas_condor.workflow", "mlaas_condor.prepare", "mlaas_condor.local"]) == []
    )


def loaded_after(code):
    """Run code in a Python of its own and return the top-level modules it has loaded."""
    program = (
        f"{code}\nimport sys; print('LOADED', *sorted({{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("module", ["mlaas_condor.workflow", "mlaas_condor.cli.main", "mlaas_condor.prepare"])
def test_submit_side_loads_no_framework(module):
    assert loaded_after(f"import {module}").isdisjoint({*FRAMEWORKS, "matplotlib"})


def test_talking_to_a_service_takes_no_htcondor():
    code = "import mlaas_condor.client.service, mlaas_condor.client.packing, mlaas_condor.planned"
    assert loaded_after(code).isdisjoint({"htcondor2", "classad2", "htcondor", *FRAMEWORKS})


def test_help_loads_nothing_heavy():
    code = """
import sys
sys.argv = ["mlaas-condor", "--help"]
from mlaas_condor.cli.main import run
try:
    run()
except SystemExit as end:
    assert not end.code
"""
    loaded = loaded_after(code)
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import mlaas_condor").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", mlaas_condor.__all__)
def test_public_name_can_be_imported_and_is_documented(name):
    found = getattr(mlaas_condor, name)
    assert found.__module__.startswith("mlaas_condor.") and (inspect.getdoc(found) or "").strip()
    if not isinstance(found, type):
        assert all(each.annotation is not each.empty for each in inspect.signature(found).parameters.values())


def test_public_names_are_sorted_and_all_there_is():
    assert sorted(mlaas_condor.__all__) == mlaas_condor.__all__ == dir(mlaas_condor)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = mlaas_condor.nothing


@pytest.mark.parametrize("path", part("mlaas_condor"))
def test_module_says_what_it_is_and_fits_in_a_head(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 400
