"""Installing a private HTCondor: everything that needs no network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlaas_condor.batch import install
from mlaas_condor.errors import InstallError

APT_CONFIG = """\
echo 'Acquire::http::Proxy "http://proxy.example";'
echo 'APT::Update::Post-Invoke "x";'"""
DEB822 = """\
# The archive of this machine.
Types: deb
# http://snapshot.example/archive/debian/20250520T000000Z
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


@pytest.mark.parametrize(
    ("kind", "text", "mirrors"),
    [
        ("sources", DEB822, ["http://mirror.example/debian"]),
        ("sources", "", []),
        ("list", "", []),
        ("list", "# deb http://mirror.example/debian bookworm main\n", []),
        ("list", "deb http://mirror.example/debian bookworm main # ours\n", ["http://mirror.example/debian"]),
        (
            "list",
            "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ trixie contrib main\n",
            ["http://mirror.example/debian"],
        ),
        ("list", "deb-src http://mirror.example/debian bookworm main\n", []),
        ("list", "deb http://mirror.example/debian-security bookworm-security main\n", []),
        ("list", "deb http://mirror.example/debian bookworm contrib # main\n", []),
        ("list", "deb http://archive.example/ubuntu noble main universe\n", []),
        ("list", "deb cdrom:[Debian 12]/ bookworm main\n", []),
        ("list", "deb http://docker.example/linux/debian bookworm stable\n", []),
        ("list", "not a line of apt\n", []),
        # More than one address, over several lines, names in any case, as deb822 allows.
        (
            "sources",
            "types: deb deb-src\nuris:\n http://a.example/debian\n# between\n\thttps://b.example/debian\n"
            "suites: stable\ncomponents: main non-free",
            ["http://a.example/debian", "https://b.example/debian"],
        ),
        ("sources", "Enabled: no\n" + DEB822.partition("\n\n")[0], []),
        ("sources", "Enabled: yes\n" + DEB822.partition("\n\n")[0], ["http://mirror.example/debian"]),
        ("sources", DEB822.replace("Types: deb\n", "Types: deb-src\n"), []),
        # A key inside the stanza has lines of its own.
        (
            "sources",
            "Types: deb\nURIs: http://a.example/debian\nSuites: sid\nComponents: main\nSigned-By:\n"
            " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n",
            ["http://a.example/debian"],
        ),
    ],
)
def test_mirrors(kind, text, mirrors):
    assert install.debian_mirrors([(kind, text)]) == mirrors


def test_mirrors_of_several_files_once_and_likely_ones_first():
    sources = [
        ("list", "deb http://browser.example/deb stable main\n"),
        ("sources", DEB822),
        ("list", "deb http://mirror.example/debian bookworm main\n"),
    ]
    assert install.debian_mirrors(sources) == ["http://mirror.example/debian", "http://browser.example/deb"]


def test_sources_are_read_by_their_suffix(tmp_path):
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (tmp_path / "sources.list").write_text("one")
    (folder / "b.sources").write_text("three")
    (folder / "a.list").write_text("two")
    (folder / "a.list.save").write_text("not read by apt")
    assert install._read_sources(tmp_path) == [("list", "one"), ("list", "two"), ("sources", "three")]
    assert install._read_sources(tmp_path / "none") == []


def programs(folder, **scripts):
    """Make a folder of programs that are shell scripts."""
    folder.mkdir()
    for name, text in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {name.replace("_", "-"): str(folder / name.replace("_", "-")) for name in scripts}


@pytest.fixture
def debian(monkeypatch):
    monkeypatch.setattr(install, "_read_sources", lambda etc: [("sources", DEB822)])


def ensure(cache):
    said = []
    return install.ensure_htcondor(cache, said.append), said


def test_nothing_is_done_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "_install", lambda *_: pytest.fail("installed again"))
    tree = tmp_path / "htcondor"
    tree.mkdir()
    (tree / "complete").write_text(f"{tree}\n")
    assert ensure(tmp_path) == (tree / "usr", [])
    # By another name it is the same folder, and the programs hold the first name.
    (tmp_path / "link").symlink_to(tmp_path)
    assert ensure(tmp_path / "link") == (tree / "usr", [])


@pytest.mark.parametrize("mark", [None, "", "/elsewhere/htcondor\n"])
def test_interrupted_or_moved_installation_is_made_again(tmp_path, monkeypatch, mark):
    made = []
    monkeypatch.setattr(install, "_install", lambda tree, say: made.append(tree))
    tree = tmp_path / "htcondor"
    tree.mkdir()
    if mark is not None:
        (tree / "complete").write_text(mark)
    ensure(tmp_path)
    assert made == [tree]


def test_no_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if "apt" in name else f"/bin/{name}")
    with pytest.raises(InstallError, match=r"no apt-get, apt-config on this machine.*conda"):
        ensure(tmp_path / "cache")


def test_no_debian_mirror(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "_find_programs", dict)
    monkeypatch.setattr(install, "_read_sources", lambda etc: [])
    with pytest.raises(InstallError, match=r"No Debian mirror.*`mlaas-condor pool up` then uses it"):
        ensure(tmp_path / "cache")


@pytest.mark.usefixtures("debian")
def test_failed_download_says_what_apt_said_and_leaves_nothing(tmp_path, monkeypatch):
    found = programs(
        tmp_path / "bin",
        apt_get="echo 'E: Temporary failure resolving' >&2; exit 100",
        apt_config=APT_CONFIG,
        dpkg_deb="exit 1",
        patchelf="exit 1",
    )
    monkeypatch.setattr(install, "_find_programs", lambda: found)
    with pytest.raises(InstallError, match=r"(?s)Could not read Debian.*Temporary failure.*conda"):
        ensure(tmp_path / "cache")
    assert not (tmp_path / "cache/htcondor").exists()


@pytest.mark.usefixtures("debian")
def test_full_disk(tmp_path, monkeypatch):
    found = programs(
        tmp_path / "bin", apt_get="echo 'E: write - No space left on device' >&2; exit 100", apt_config="true"
    )
    monkeypatch.setattr(install, "_find_programs", lambda: found)
    with pytest.raises(InstallError, match="MLAAS_CONDOR_CACHE"):
        ensure(tmp_path / "cache")


def test_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallError, match="could not be installed into"):
        ensure(tmp_path / "file")


def test_configuration_of_apt_keeps_the_network_and_drops_the_hooks(tmp_path):
    keep = tmp_path / "seen"
    found = programs(
        tmp_path / "bin",
        apt_get=f'cat "$APT_CONFIG" > {keep}; cat {tmp_path}/place/sources.list >> {keep}',
        apt_config=APT_CONFIG,
    )
    assert install._download(tmp_path / "place", ["http://mirror.example/debian"], found) == []
    text = keep.read_text()
    assert 'Acquire::http::Proxy "http://proxy.example";' in text
    assert "Post-Invoke" not in text
    assert f'Dir::State::status "{tmp_path}/place/status";' in text
    assert "http://mirror.example/debian forky main" in text


def test_second_mirror_is_asked_where_the_first_fails(tmp_path):
    seen = tmp_path / "seen"
    found = programs(
        tmp_path / "bin",
        apt_get=f"cat {tmp_path}/place/sources.list >> {seen}; ! grep -q //a {tmp_path}/place/sources.list",
        apt_config="true",
    )
    install._download(tmp_path / "place", ["http://a.example/debian", "http://b.example/debian"], found)
    assert [line.split()[-3] for line in seen.read_text().splitlines()] == [
        "http://a.example/debian",
        "http://b.example/debian",
        "http://b.example/debian",
    ]


def test_elf_segments(tmp_path):
    segments = install.elf_segments(Path(os.path.realpath(sys.executable)))
    assert {1, 2} <= segments  # PT_LOAD, PT_DYNAMIC
    for content in (b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(58)):
        (tmp_path / "file").write_bytes(content)
        assert install.elf_segments(tmp_path / "file") == set()


def test_lock_is_waited_for(tmp_path):
    program = (
        "import sys; from pathlib import Path; from mlaas_condor.batch.install import locked\n"
        "with locked(Path(sys.argv[1]), 'waiting', lambda line: print(line, flush=True)):\n    print('in')"
    )
    lock = tmp_path / "lock"
    with install.locked(lock, "waiting", pytest.fail):
        command = [sys.executable, "-c", program, str(lock)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "waiting\n"
    assert other.communicate(timeout=30)[0] == "in\n"
