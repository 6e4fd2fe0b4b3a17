"""Requests of strangers: what they name is inside, or refused, and nobody learns what is outside."""

import ipaddress
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlaas_condor import confinement, settings, workflow
from mlaas_condor.confinement import NOWHERE, Confinement, is_public, odd_text
from mlaas_condor.errors import AccessDenied, RequestError
from mlaas_condor.grid import xrootd
from mlaas_condor.lists import is_here, read_lines, read_lists
from mlaas_condor.prepare import prepare
from mlaas_condor.request import Request

JOB = {"name": "luca", "files": ["a.root"], "labels": ["1"], "model": "model.py"}
ADDRESSES = {
    "storage.example": ["93.184.216.34"],
    "inside.example": ["10.1.2.3"],
    "rebound.example": ["93.184.216.34", "127.0.0.1"],
    "sixth.example": ["2606:2800:220:1::1"],
    "localhost": ["127.0.0.1", "::1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """Know some hosts, and no others; numbers are those of the system."""
    of_system = socket.getaddrinfo

    def look_up(host, port, *args, **named):
        if host in ADDRESSES:
            return [(0, 0, 0, "", (each, 0)) for each in ADDRESSES[host]]
        if host[:1].isdigit():
            return of_system(host, port, *args, **named)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    confinement._addresses.cache_clear()
    yield
    confinement._addresses.cache_clear()


@pytest.fixture
def house(tmp_path):
    """An uploaded folder, an input folder of the service, and what is nobody's business."""
    for folder in ("up/loaded/data", "public/more", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    up, public = ("a.root", "data/b.root", "../other.txt"), ("c.root", "more/d.root")
    files = [f"up/loaded/{each}" for each in up] + [f"public/{each}" for each in public]
    for file in (*files, "secret/key.txt", "secret/e.root"):
        (tmp_path / file).write_text("content that nobody may see\n")
    (tmp_path / "public/inside").symlink_to(tmp_path / "public/more")
    (tmp_path / "public/outside").symlink_to(tmp_path / "secret")
    (tmp_path / "public/f.root").symlink_to(tmp_path / "secret/e.root")
    (tmp_path / "public/gone.root").symlink_to(tmp_path / "secret/none.root")
    (tmp_path / "public/loop").symlink_to(tmp_path / "public/loop")
    return tmp_path


@pytest.fixture
def within(house):
    return Confinement((house / "up/loaded", house / "public"), ("*",))


@pytest.fixture
def confined(house, within):
    """Return a request of a right job, changed; params are keywords."""

    def make(job=None, **params):
        return Request.of(
            {**JOB, **({"params": params} if params else {}), **(job or {})},
            house / "up/loaded",
            "job.json",
            within=within,
        )

    return make


def said(request):
    return "\n".join(map(str, request.problems))


# ---- paths

OUTSIDE = [
    "../other.txt", "/etc/passwd", "data/../../other.txt", "~/x", "~root/.bashrc", "~", "..", "/", "x\0y",
    "\ud800", "tab\there", ".", "", "data/..", "./../loaded/../other.txt", "{house}/secret/key.txt",
    "{house}/public/outside/key.txt", "{house}/public/f.root", "{house}/public/../secret/key.txt",
    "{house}/public/inside/../../secret/e.root", "{house}/publicity", "{house}/public/gone.root",
    "{house}/public/outside/none.txt", "{house}/public",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_name_that_leads_outside_is_nowhere(within, house, name):
    assert within.find(house / "up/loaded", name.format(house=house)) == NOWHERE


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.root", "up/loaded/a.root"),
        ("data/b.root", "up/loaded/data/b.root"),
        ("data/../a.root", "up/loaded/a.root"),
        ("none/at/all", "up/loaded/none/at/all"),
        ("../loaded/a.root", "up/loaded/a.root"),
        ("{house}/public/c.root", "public/c.root"),
        ("{house}/public/inside/d.root", "public/more/d.root"),
        ("{house}/public/more/../c.root", "public/c.root"),
        ("a b.root", "up/loaded/a b.root"),
    ],
)
def test_name_that_stays_inside_is_its_real_path(within, house, name, path):
    assert within.find(house / "up/loaded", name.format(house=house)) == house / path


def test_where_nothing_is_nothing_can_be():
    assert not os.path.lexists(NOWHERE)
    with pytest.raises(OSError, match="Not a directory"):
        NOWHERE.mkdir(parents=True)


PIECES = st.sampled_from(
    ["..", ".", "", "/", "~", "~root", "a.root", "data", "b.root", "link", "away", "up", "deep", "HOUSE",
     "HOUSE/in", "HOUSE/in/link", "HOUSE/in/up", "HOUSE/out", "file:", "x.root:tree", "[a]", "*", "**",
     "?", "e.root", " ", "\\", "a\n", "%2e%2e", "://", "|", "localhost", "etc", "passwd", "\u2025", "．．"]
)  # fmt: skip


@pytest.fixture(scope="module")
def maze(tmp_path_factory):
    """Folders with links in all directions."""
    house = tmp_path_factory.mktemp("maze")
    for folder in ("in/data", "in/deep/data", "out/data", "also"):
        (house / folder).mkdir(parents=True)
    for file in (
        "in/a.root",
        "in/data/b.root",
        "in/deep/data/e.root",
        "out/a.root",
        "out/data/b.root",
        "also/a.root",
    ):
        (house / file).write_text("x")
    (house / "in/link").symlink_to("deep")
    (house / "in/away").symlink_to(house / "out")
    (house / "in/up").symlink_to("..")
    (house / "in/deep/up").symlink_to("../../out")
    (house / "in/deep/link").symlink_to(house / "also")
    (house / "in/data/away").symlink_to("/etc")
    (house / "in/data/link").symlink_to("e.root")
    (house / "also/up").symlink_to(house / "in/away/data")
    return house


@hypothesis_settings(max_examples=600)
@given(parts=st.lists(PIECES, max_size=6), glue=st.sampled_from(["/", "//", ""]), absolute=st.booleans())
def test_whatever_a_confined_request_reads_lies_inside(maze, parts, glue, absolute):
    line = ("/" if absolute else "") + glue.join(parts).replace("HOUSE", str(maze))
    roots = (maze / "in", maze / "also")
    request = Request.of(
        {**JOB, "files": [line], "labels": line or "x", "model": line or "m", "preproc": line, "specs": line},
        maze / "in",
        within=Confinement(roots, ()),
    )
    lists = read_lists(request, [line] if line else [])
    read = [Path(each.path) for each in lists.inputs if "://" not in each.path]
    read += [request.path(line)] + [
        request.path(getattr(request.job, key) or "") for key in ("model", "labels")
    ]
    for path in read:
        real = Path(os.path.realpath(path))
        assert path == NOWHERE or any(root in real.parents for root in roots)
    assert not any("://" in each.path for each in lists.inputs)  # no host may be named
    for name, path in request.within.matches(request.folder, line):
        assert path == NOWHERE or any(root in Path(os.path.realpath(path)).parents for root in roots), name


# ---- every key that names a path


@pytest.mark.parametrize("name", ["/etc/passwd", "../other.txt", "~/x", "{house}/public/outside/key.txt"])
@pytest.mark.parametrize("key", ["files", "labels", "model", "params", "weights", "preproc", "specs"])
def test_every_key_of_the_job_is_confined(confined, house, key, name):
    name = name.format(house=house)
    request = confined({key: name})
    assert [each.where for each in request.problems] == [f"job.json: {key}"]
    assert repr(name) in said(request) and "outside of what may be read here" in said(request)
    assert "nobody may see" not in said(request)
    assert str(house / "public") in said(request)  # what may be named instead


@pytest.mark.parametrize("key", ["selected_branches", "exclude_branches", "hist"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../other.txt", "~/x"])
def test_every_key_of_the_params_is_confined(confined, key, name):
    request = confined(**{key: name})
    assert [each.where for each in request.problems] == [f"params.json: {key}"]


@pytest.mark.parametrize("key", ["validation", "test"])
@pytest.mark.parametrize("name", ["/etc/*", "../other.txt", "file:///etc/passwd", "root://127.0.0.1//x.root"])
def test_files_of_a_split_are_confined(confined, key, name):
    request = confined(split={key: [name, "a.root"]})
    assert [each.where for each in request.problems] == [f"params.json: split.{key}"]


def test_all_problems_come_at_once(confined, house):
    bad = "/etc/passwd"
    request = confined(
        {"files": bad, "labels": bad, "model": bad, "weights": bad, "preproc": bad, "specs": bad,
         "x509_proxy": "/tmp/x509up_u0", "oauth_services": ["cern"], "chunk_store": "file:///tmp/x"},
        selected_branches=bad, exclude_branches=bad, hist=bad, redirector="root://127.0.0.1",
    )  # fmt: skip
    assert len(request.problems) == 13
    with pytest.raises(RequestError) as caught:
        prepare(request, settings.load())
    assert len(caught.value.problems) == 13
    assert "delegate a proxy instead: mlaas-condor proxy delegate" in str(caught.value)


def test_tokens_of_the_pool_are_for_whom_the_account_is(house):
    job = {**JOB, "oauth_services": ["cern"]}
    own = Confinement((house / "up/loaded",), own_account=True)
    assert not Request.of(job, house / "up/loaded", within=own).problems


def test_content_of_other_files_is_in_no_message(confined, house):
    (house / "secret/params.json").write_text('{"password": "hunter2", "nevts": "hunter2"}')
    (house / "secret/broken.json").write_text("hunter2")
    for name in ("params.json", "broken.json"):
        for key in ("params", "preproc", "specs"):
            assert "hunter2" not in said(confined({key: f"../../secret/{name}"}))


def test_nobody_learns_whether_a_file_is_there(confined, house):
    def of(name):
        request = confined({"files": [name], "labels": name, "model": name, "params": name}, redirector=[])
        lines = read_lines(request)
        read_lists(request, lines)
        named = name.removesuffix(":x")
        return [(each.where, each.what.replace(named, "X"), each.hint) for each in request.problems]

    there, missing = of("/etc/passwd"), of("/etc/passwd-none")
    assert there == missing and len(there) == 4
    assert of(f"{house}/public/outside/key.txt") == of(f"{house}/public/outside/none.txt")
    assert of("/etc/pass*") == of("/etc/none*")
    assert of("~root") == of("~nobody-of-that-name")
    assert of("/etc/host.conf:x") == of("/etc/none.conf:x")


def test_a_path_of_the_machine_is_never_here(confined, house):
    request = confined(redirector="root://storage.example")
    for name in ("/etc/passwd", "/etc/pass*", "../other.txt", f"{house}/public/f.root"):
        assert not is_here(request, name)
    assert (
        is_here(request, "a.root")
        and is_here(request, "*.root")
        and is_here(request, f"{house}/public/*.root")
    )


def test_paths_that_are_not_here_go_to_the_redirector(confined):
    request = confined(redirector=["root://storage.example", "davs://storage.example"])
    lists = read_lists(request, ["/etc/passwd", "a.root"])
    assert "files" not in said(request).split(":")
    assert [each.path.split("|")[0] for each in lists.inputs] == [
        "root://storage.example//etc/passwd", str(request.folder / "a.root")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("*.root", ["up/loaded/a.root"]),
        ("**/*.root", ["up/loaded/a.root", "up/loaded/data/b.root"]),
        ("{house}/public/c*.root", ["public/c.root"]),
        ("{house}/public/inside/*", ["public/more/d.root"]),
        (
            "{house}/public/*side/*.root",
            ["public/more/d.root"],
        ),  # behind a link outside nothing is looked for
    ],
)
def test_globs_find_what_is_inside(confined, house, line, found):
    request = confined()
    lists = read_lists(request, [line.format(house=house)])
    assert [each.path for each in lists.inputs] == [str(house / each) for each in found]
    assert "outside" not in said(request) and "matches" not in said(request)


@pytest.mark.parametrize(
    "line",
    ["../*", "/etc/*", "{house}/secret/*", "{house}/public/outside/*", "data/../../*", "~/*", "~root/*"],
)
def test_globs_outside_are_refused(confined, house, line):
    request = confined()
    assert not read_lists(request, [line.format(house=house)]).inputs
    assert "outside of what may be read here" in said(request)


def test_a_pattern_does_not_look_for_the_same_again(confined, house, monkeypatch):
    deep = house / "up/loaded" / "/".join("abcdefghij")
    deep.mkdir(parents=True)
    (deep / "x.root").touch()
    looked = []
    real = confinement._entries
    monkeypatch.setattr(confinement, "_entries", lambda folder: looked.append(folder) or real(folder))
    found = list(confined().within.matches(house / "up/loaded", "/*/".join(["**"] * 6) + "/x.root"))
    assert [path for _, path in found] == [deep / "x.root"]
    assert len(looked) < 300


@pytest.mark.parametrize("line", ["*/../../*", "[d]ata/../../other.txt", "**/../*", "none*"])
def test_globs_that_go_up_match_nothing(confined, line):
    request = confined()
    assert not read_lists(request, [line]).inputs
    assert len(request.problems) == 1


def test_a_link_that_a_glob_matches_is_told_there_or_not(confined, house):
    request = confined()
    lists = read_lists(request, [f"{house}/public/*.root"])
    assert [each.path for each in lists.inputs] == [str(house / "public/c.root")]
    told = [each.what for each in request.problems if "leads outside" in each.what]
    assert len(told) == 2 and "'f.root'" in told[0] + told[1] and "'gone.root'" in told[0] + told[1]


def test_files_of_lists_are_in_the_folder_too(request_folder):
    """The whole of a request, as people upload it."""
    within = Confinement((request_folder,), ())
    job = json.loads((request_folder / "job.json").read_text())
    free = prepare(Request.read(request_folder), settings.load())
    found = prepare(
        Request.of(job, request_folder, "job.json", within=within), settings.load(), run_code=False
    )
    assert found.dataset == free.dataset and found.recipe == free.recipe and found.warnings == free.warnings


@pytest.mark.parametrize("line", ["file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd"])
def test_files_of_the_machine_have_no_url(confined, line):
    request = confined()
    assert not read_lists(request, [line]).inputs
    assert "file:// is not read here" in said(request)


def test_modules_beside_the_model_are_confined(house, within, tmp_path):
    (house / "public/model.py").write_text("import keras, stolen, helper\ndef model(idim):\n    pass\n")
    (house / "secret/stolen.py").write_text("KEY = 1\n")
    (house / "public/stolen.py").symlink_to(house / "secret/stolen.py")
    (house / "public/helper").mkdir()
    (house / "public/helper/__init__.py").write_text("")
    (house / "public/helper/data.txt").symlink_to(house / "secret/key.txt")
    request = Request.of({**JOB, "model": str(house / "public/model.py")}, house / "up/loaded", within=within)
    with pytest.raises(RequestError) as caught:
        prepare(request, settings.load())
    assert "imports stolen, in which 'stolen.py' leads outside" in str(caught.value)
    assert "imports helper, in which 'data.txt' leads outside" in str(caught.value)


@pytest.mark.parametrize("value", ["\0", "a\ud800", ["x", {"y": "\udfff"}], {"\0": 1}])
def test_text_that_is_none_is_refused(confined, value):
    assert odd_text(value) and odd_text({"a": [1, value]})
    with pytest.raises(RequestError, match="characters that no text has"):
        confined({"labels": value})
    assert not odd_text({"a": ["ü", 1, None, True, "\U0001f600"]})


# ---- hosts


@pytest.mark.parametrize(
    "url",
    [
        "root://storage.example//store/a.root", "root://storage.example:1094//a.root", "https://storage.example/a?sig=x",
        "davs://STORAGE.example./a", "roots://sixth.example//a", "xroot://8.8.8.8//a", "https://[2606:4700::1]/a.root",
        "root://unknown.example//a.root", "root://storage.example//a?authz=x", "root://storage.example//run?/*.root",
    ],
)  # fmt: skip
def test_urls_of_the_internet_may_be_named(within, url):
    assert within.wrong_url(url) == ("", "")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hdfs://storage.example/a", "hdfs:// is not read here"),
        ("webhdfs://storage.example/a", "webhdfs:// is not read here"),
        ("ftp://storage.example/a", "ftp:// is not read here"),
        ("file:///etc/passwd", "file:// is not read here"),
        ("root://localhost//a", "not public"),
        ("root://LOCALHOST.//a", "not public"),
        ("https://127.0.0.1/a", "not public"),
        ("https://127.1/a", "not public"),
        ("https://2130706433/a", "not public"),
        ("https://0x7f000001/a", "not public"),
        ("https://0177.0.0.1/a", "not public"),
        ("http://169.254.169.254/latest/meta-data", "not public"),
        ("https://[::1]/a", "not public"),
        ("https://[::]/a", "not public"),
        ("https://[::ffff:127.0.0.1]/a", "not public"),
        ("https://[::ffff:7f00:1]/a", "not public"),
        ("https://[64:ff9b::7f00:1]/a", "not public"),
        ("https://[2002:7f00:1::]/a", "not public"),
        ("https://[fe80::1]/a", "not public"),
        ("https://[fd00::1]/a", "not public"),
        ("root://10.0.0.1//a", "not public"),
        ("root://192.168.1.1:1094//a", "not public"),
        ("root://172.16.0.1//a", "not public"),
        ("root://100.64.0.1//a", "not public"),
        ("root://224.0.0.1//a", "not public"),
        ("root://0.0.0.0//a", "not public"),
        ("root://inside.example//a", "not public"),
        ("root://rebound.example//a", "not public"),
        ("https://user:password@storage.example/a", "is no URL"),
        ("root://x@storage.example//a", "is no URL"),
        ("https://storage.example\\@127.0.0.1/a", "is no URL"),
        ("https://storage.example#@127.0.0.1/a", "is no URL"),
        ("https://storage.example/a\n", "is no URL"),
        ("https://[fe80::1%25eth0]/a", "is no URL"),
        ("https:///etc/passwd", "is no URL"),
        ("https://store_age.example|root://localhost//a", "is no URL"),
        ("root://storage.example//a?xrd.gsiusrpxy=/home/service/proxy.pem", "xrd.gsiusrpxy"),
        ("root://storage.example//a?authz=x&xrd.wantprot=unix", "xrd.wantprot"),
        ("root://storage.example//a?b/c?authz=x", "leave out"),
        ("root://localfile//etc/passwd", "service's machine"),
        ("root://storage.example//a.meta4", "list of other files"),
        ("root://storage.example//a.METALINK?authz=x", "list of other files"),
    ],
)
def test_urls_of_anything_else_may_not(within, url, words):
    what, hint = within.wrong_url(url)
    assert words in f"{what} {hint}"


@pytest.mark.parametrize(
    ("hosts", "url", "allowed"),
    [
        (("*",), "root://storage.example//a", True),
        ((), "root://storage.example//a", False),
        (("*.cern.ch",), "root://storage.example//a", False),
        (("*.example",), "root://storage.example//a", True),
        (("*.EXAMPLE",), "root://storage.example//a", True),
        (("*.example",), "root://inside.example//a", False),
        (("inside.example",), "root://inside.example//a", True),
        (("*", "inside.example"), "root://inside.example:1094//a", True),
        (("inside.example:1094",), "root://inside.example:1094//a", True),
        (("inside.example:1094",), "root://inside.example:1095//a", False),
        (("localhost",), "root://localhost:1094//a", True),
        (("localhost",), "root://127.0.0.1//a", False),
        (("127.0.0.1",), "https://127.0.0.1/a", True),
        (("127.0.0.1",), "https://2130706433/a", False),
        (("*.0.0.1",), "https://127.0.0.1/a", False),
        (("[::1]",), "https://[::1]:8443/a", True),
    ],
)
def test_hosts_are_those_that_are_named(hosts, url, allowed):
    assert (Confinement((), hosts).wrong_url(url) == ("", "")) is allowed


@given(st.integers(0, 2**32 - 1))
def test_an_address_is_as_public_as_what_it_wraps(number):
    plain = ipaddress.IPv4Address(number)
    wrapped = [
        ipaddress.IPv6Address(f"::ffff:{plain}"),
        ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + number),
        ipaddress.IPv6Address((0x2002 << 112) + (number << 80)),
    ]
    assert {is_public(each) for each in wrapped} == {is_public(plain)}


@pytest.mark.parametrize(
    "line",
    [
        "root://127.0.0.1//a.root", "root://storage.example//a.root|root://10.0.0.1//a.root", "hdfs://storage.example/a",
        "root://storage.example//a.root:tree|https://169.254.169.254/a", "https://localhost/a.csv:tree",
        "root://storage.example//a.root|/etc/passwd", "root://storage.example//a|file:///etc/passwd",
    ],
)  # fmt: skip
def test_lines_with_urls_are_confined(confined, line):
    request = confined()
    assert not read_lists(request, [line]).inputs
    assert len(request.problems) == 1


@pytest.mark.parametrize("path", ["a|root://10.0.0.1//b", "a.root?xrd.gsiusrpxy=/tmp/x", "x.meta4", "a|b"])
def test_what_redirectors_make_of_a_path_is_confined(confined, path):
    request = confined(redirector="root://storage.example")
    assert not read_lists(request, [path]).inputs
    assert request.problems


def test_what_a_server_lists_is_confined(confined, monkeypatch):
    listed = [("good.root", False), ("a.root?xrd.gsiusrpxy=", False), ("b.meta4", False)]
    monkeypatch.setattr(xrootd, "_listed", lambda host, folder: listed)
    request = confined()
    assert not read_lists(request, ["root://storage.example//store/*"]).inputs
    assert len(request.problems) == 2


@pytest.mark.parametrize(
    "url", ["root://10.0.0.1//x", "https://storage.example:99999999/x", "/tmp/chunks", "root://a b//x"]
)
def test_chunk_store_is_confined(confined, url):
    (problem,) = confined({"chunk_store": url}).problems
    assert problem.where == "job.json: chunk_store"


# ---- a process that is held to it

HELD = """
import socket, sys, threading
from pathlib import Path
from mlaas_condor.confinement import Confinement
listening = socket.create_server(("127.0.0.1", 0))
here = listening.getsockname()
Confinement((Path("/none"),), tuple(sys.argv[1:])).hold()
try:
    with socket.create_connection(here, 5) as connection:
        print("connected")
except PermissionError as error:
    print(error)
try:
    import asyncio
    async def reach():
        _, writer = await asyncio.open_connection(*here)
        writer.close()
    asyncio.run(reach())
    print("connected")
except PermissionError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("hosts", "answer"), [(["*"], "127.0.0.1 is none that is read here"), (["*", "127.0.0.1"], "connected")]
)
def test_redirections_and_changing_names_reach_no_more(hosts, answer):
    done = subprocess.run(
        [sys.executable, "-P", "-c", HELD, *hosts], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [answer] * 2, done.stderr


@pytest.mark.parametrize(
    ("hosts", "place", "allowed"),
    [
        (["*"], "root://storage.example:1094//a.root", True),
        (["*"], "root://x@storage.example:1094//a.root", True),
        (["*"], "file://localhost/etc/passwd", False),
        (["*"], "root://localfile//etc/passwd", False),
        (["*"], "root://10.0.0.1:1094//a.root", False),
        (["*"], "root://[::1]:1094//a.root", False),
        (["*"], "root://unknown.example//a.root", False),
        (["*", "inside.example"], "root://inside.example:1094//a.root", True),
        (["*", "127.0.0.1"], "root://127.0.0.1:1094//a.root", True),
    ],
)
def test_where_a_server_sends_is_looked_at(hosts, place, allowed):
    within = Confinement((), tuple(hosts))
    if allowed:
        within._check_place("root://redirector.example//a.root", place)
        return
    with pytest.raises(AccessDenied, match="sends"):
        within._check_place("root://redirector.example//a.root", place)


@pytest.mark.parametrize("hosts", [[], ["127.0.0.1"]])
def test_a_storage_cannot_have_files_of_this_machine_read(tmp_path, hosts):
    pytest.importorskip("XRootD")
    secret = tmp_path / "secret.csv"
    secret.write_text("password")
    server = Path(__file__).with_name("redirecting_server.py")
    command = [sys.executable, server, f"file://localhost{secret}", *hosts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    if hosts:
        assert "its host sends elsewhere than to storage" in done.stdout and "password" not in done.stdout
    else:  # why it has to be looked at
        assert done.stdout.strip() == "password"


# ---- what HTCondor gets

NASTY = [
    "x.py, passwd.py", 'q".py', "a\nqueue 5.py", "$(HOME).py", "$ENV(X).py", "a b.py", "a'b.py", "a;b.py",
    "%20.py", "a,b.py", "a=b.py", "@{name}.py", "ü\u2028.py", "\\.py", "#.py",
]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_names_of_uploaded_files_mean_nothing_in_a_submit_file(request_folder, change, name, tmp_path):
    change(model=name)
    (request_folder / "model.py").rename(request_folder / name)
    odd = request_folder / f"data/{name}.root"
    (request_folder / "data/signal.root").rename(odd)
    (request_folder / "files.txt").write_text("")
    change(files=[f"data/{name}.root", "data/background.root"], labels=[name, "other"])
    prepared = workflow.plan(request_folder / "job.json", settings.load())
    made = workflow.submit_files(prepared, settings.load(home=str(tmp_path / "home")), "tiny_1")
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-+") else "_" for c in name)
    for file, text in made.items():
        assert file == "ready.sh" or name not in text
    lines = [line for line in made["train.sub"].splitlines() if "transfer_input_files" in line]
    assert len(lines) == 1 and f"files/{kept}," in lines[0]
    for stage in ("specs", "preprocess"):
        assert [line.split()[0] for line in made[f"{stage}.sub"].splitlines() if line[:5] == "queue"] == [
            "queue"
        ]
    assert prepared.dataset.files[0].staged == f"0000_{kept}.root"


@pytest.mark.parametrize(
    "store",
    [
        "root://h//a b", 'root://h//a"b', "root://h//a\nqueue", "root://h//$(HOME)", "root://h//a$b", "root://h//a;b",
        "root://h//a'b", "root://h//a\\b", "root://h//%41", "root://h//ü", "root://h//a?b=c", "root://h//a\r",
    ],
)  # fmt: skip
def test_a_chunk_store_cannot_hold_what_means_something(request_folder, change, store):
    change(chunk_store=store)
    with pytest.raises(RequestError, match="chunk_store"):
        workflow.plan(request_folder / "job.json", settings.load())


@pytest.mark.parametrize("service", ["a b", "a,b", 'a"', "a\n", "$(X)", "a**b", "", "*"])
def test_names_of_tokens_cannot_either(confined, service):
    assert "oauth_services" in said(Request.of({**JOB, "oauth_services": [service]}))


def test_command_line_is_not_confined(request_folder, change, tmp_path, monkeypatch):
    """Its user's own files are as reachable as ever."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    (request_folder / "labels.txt").rename(other / "labels.txt")
    (request_folder / "model.py").rename(other / "model.py")
    (request_folder / "params.json").rename(other / "params.json")
    monkeypatch.setenv("HOME", str(other))
    change(labels="~/labels.txt", model="../elsewhere/model.py", params=str(other / "params.json"))
    assert not prepare(Request.read(request_folder), settings.load()).warnings


def test_patterns_that_take_long_are_refused_or_made_short(tmp_path):
    folder = tmp_path / "request"
    for name in ("a/a/a.root", "a/b.root"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    within = Confinement((folder,), ("*",))
    long = "[" * 5000
    assert within.wrong_path(folder, long)[0]
    assert within.wrong_path(folder, f"{long}/x")[0]
    many = "/".join(["**"] * 400)
    found = {str(path.relative_to(folder)) for _, path in within.matches(folder, f"{many}/*.root")}
    assert found == {"a/a/a.root", "a/b.root"}
    assert [path.name for _, path in within.matches(folder, "a/a/*.root")] == ["a.root"]
