"""The page on predicting: its code runs, one block after the other, in a folder with a bundle and a file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
from bundle_tools import recipe_of, write_bundle
from data_tools import dataset_of
from example_tools import EXAMPLE

import mlaas_condor
from mlaas_condor.data.selection import Cut, Steps
from mlaas_condor.inference import unpacking
from mlaas_condor.inference.model import Model
from mlaas_condor.training import bundle

PAGE = (Path(__file__).parents[3] / "docs" / "predict.md").read_text("utf-8")


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlaas_condor, "Model", Model, raising=False)
    steps = Steps(cuts=[Cut(expression="met > 10", branches=["met"])])
    paths = [EXAMPLE / "data" / name for name in ("ttH_1.root", "qcd_pthat200.root")]
    write_bundle(
        Path("bundle"), dataset_of(paths, features=["met", "nJets", "jetPt"], steps=steps), recipe_of()
    )
    bundle.write(Path("luca_1.tar.gz"), Path("bundle"))
    shutil.copy(paths[0], "data.root")
    shutil.rmtree("bundle")

    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "predict.md", "exec"), names)
    assert names["one"].shape == (1,) and names["several"].shape == (3,)
    assert names["one"][0] == names["several"][0]
    assert 0 < np.isnan(names["scores"]).sum() < len(names["scores"]) == len(names["kept"])


def test_the_limits_of_the_page_are_those_of_the_code():
    assert f"{unpacking.MOST_FILES:,}" in PAGE and f"{unpacking.MOST_BYTES // 2**30} GiB" in PAGE
