import gzip
import io
import json
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas_condor.errors import InputUnreadable
from mlaas_condor.training import bundle

names = st.text("abcXYZ019_-.", min_size=1, max_size=12).filter(lambda name: name.strip("."))
trees = st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=300))


def plant(folder, tree, order):
    folder.mkdir()
    for name in order:
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tree[name])
        except OSError:  # a file where another name needs a folder, or the reverse
            tree.pop(name)
        else:
            os.utime(path, (1, hash(name) % 10**6))


@given(trees)
def test_what_goes_in_comes_out_and_the_same_content_gives_the_same_bytes(tmp_path_factory, tree):
    here = tmp_path_factory.mktemp("bundle")
    plant(here / "one", tree, list(tree))
    plant(here / "two", tree, list(reversed(tree)))
    bundle.write(here / "one.tar.gz", here / "one")
    bundle.write(here / "two.tar.gz", here / "two")
    assert (here / "one.tar.gz").read_bytes() == (here / "two.tar.gz").read_bytes()
    assert bundle.members(here / "one.tar.gz") == sorted(tree)
    for name, content in tree.items():
        assert bundle.read_member(here / "one.tar.gz", name) == content
        assert bundle.read_member(here / "one.tar.gz", f"./{name}") == content


def test_the_members_are_as_the_services_expect_them(tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "link").symlink_to("/etc/hostname")
    bundle.write(tmp_path / "m.tar.gz", folder)
    with tarfile.open(tmp_path / "m.tar.gz") as tar:
        found = tar.getmembers()
    assert [member.name for member in found] == [
        "./assets",
        "./saved_model.pb",
        "./variables",
        "./variables/variables.index",
    ]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in found} == {(0, 0, 0, "", "")}
    assert (tmp_path / "m.tar.gz").read_bytes()[4:8] == bytes(4)
    assert not list(tmp_path.glob("*.part"))


def test_large_members_survive(tmp_path):
    (tmp_path / "model").mkdir()
    content = os.urandom(3_000_001)
    (tmp_path / "model" / "weights").write_bytes(content)
    bundle.write(tmp_path / "m.tar.gz", tmp_path / "model")
    assert bundle.read_member(tmp_path / "m.tar.gz", "weights") == content


def test_reading_what_is_not_there_or_damaged(tmp_path):
    path = tmp_path / "m.tar.gz"
    with pytest.raises(InputUnreadable, match="No such file"):
        bundle.read_member(path, "params.json")
    path.write_bytes(b"no tarball")
    with pytest.raises(InputUnreadable, match="no bundle"):
        bundle.members(path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "params.json").write_bytes(os.urandom(5000))
    bundle.write(path, tmp_path / "model")
    with pytest.raises(KeyError, match="holds no file other"):
        bundle.read_member(path, "other")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputUnreadable):
        bundle.read_member(path, "params.json")


def test_a_member_outside_the_folder_is_only_a_name(tmp_path):
    path = tmp_path / "evil.tar.gz"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("../../escaped")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    path.write_bytes(gzip.compress(buffer.getvalue()))
    assert bundle.read_member(path, "../../escaped") == b"abc"
    assert not (tmp_path.parent.parent / "escaped").exists()


def test_params_have_every_key_the_services_know():
    params = bundle.params_json("luca_1", "saved_model.pb", description="ttH", timestamp="then")
    assert " ".join(params) == (
        "name model labels op input_name output_name img_channels options input_node output_node "
        "description timestamp"
    )
    assert (params["name"], params["model"], params["timestamp"]) == ("luca_1", "saved_model.pb", "then")
    assert json.loads(json.dumps(params)) == params
    assert bundle.params_json("a", "b")["timestamp"].endswith("UTC")
