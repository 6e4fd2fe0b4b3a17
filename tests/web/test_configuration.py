"""``service.toml``: what it may say, and what is said of it when it is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mlaas_condor.errors import RequestError
from mlaas_condor.server.configuration import SECTIONS, Configuration

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"


def read(folder, text):
    path = folder / "service.toml"
    path.write_text(text)
    return Configuration.read(path)


def problems(folder, text):
    with pytest.raises(RequestError) as caught:
        read(folder, text)
    return [str(problem) for problem in caught.value.problems]


def test_without_a_file_there_is_one_user_on_loopback():
    found = Configuration.read(None)
    assert (found.service.host, found.login.method) == ("127.0.0.1", "none")


def test_all_problems_come_at_once_with_their_places(tmp_path):
    text = """
        hoem = "/data"
        [service]
        port = "many"
        threads = 1
        [login]
        method = "proxy"
        [login.proxy]
        addresses = ["10.0.0.0/33"]
        [limits]
        stored = "much"
    """
    said = problems(tmp_path, text)
    for part in (
        "service.toml: hoem: unknown key (did you mean 'home'?)",
        "service.toml: service.port: 'many' does not do",
        "service.toml: service.threads: 1 does not do",
        "service.toml: login.proxy.addresses.0",
        "service.toml: limits.stored: 'much' does not do",
    ):
        assert any(each.startswith(part) for each in said), said
    assert len(said) == 5 or len(said) == 6  # an address is of neither kind


def test_a_method_needs_its_section(tmp_path):
    assert "needs a section [login.tokens]" in problems(tmp_path, '[login]\nmethod = "tokens"')[0]


def test_what_cannot_be_read_is_one_problem(tmp_path):
    assert "cannot be read" in problems(tmp_path, "[service")[0]
    with pytest.raises(RequestError, match=r"cannot be read: .*No such file"):
        Configuration.read(tmp_path / "nowhere.toml")


def test_paths_are_taken_from_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/jane")
    found = read(tmp_path, 'home = "data"\n[service]\nlog = "/var/log/x"\n[inputs]\nfolders = ["~/data"]')
    assert found.home == tmp_path / "data"
    assert found.service.log == Path("/var/log/x")
    assert found.inputs.folders == [Path("/home/jane/data")]


def test_the_command_line_says_more_than_the_file_and_the_file_more_than_the_environment(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("MLAAS_CONDOR_HOME", "/environment")
    monkeypatch.setenv("MLAAS_CONDOR_POOL", "site")
    assert str(Configuration.read(None).settings().home) == "/environment"
    found = read(tmp_path, f'home = "{tmp_path}"\npool = "personal"\n[jobs]\naccounting_group = "group_a.b"')
    settings = found.settings()
    assert (settings.home, settings.pool, settings.accounting_group) == (tmp_path, "personal", "group_a.b")
    assert str(found.settings(home="/flag").home) == "/flag"


def test_every_section_is_known():
    def sections(kind, place=()):
        yield ".".join(place)
        for name, info in kind.model_fields.items():
            for each in (info.annotation, *getattr(info.annotation, "__args__", ())):
                if isinstance(each, type) and hasattr(each, "model_fields"):
                    yield from sections(each, (*place, name))

    assert sorted(sections(Configuration)) == sorted(SECTIONS)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*/service.toml")), ids=lambda path: path.parent.name)
def test_the_examples_are_right(path):
    Configuration.read(path)


def test_the_example_shows_every_section_of_the_whole():
    text = (IMAGES / "service" / "service.toml").read_text()
    shown = set(re.findall(r"^\[(.*)\]$", text, re.MULTILINE))
    assert shown == set(SECTIONS) - {"", "login.proxy"}


def test_what_is_in_images_names_files_and_options_that_there_are():
    container = (IMAGES / "service" / "Containerfile").read_text()
    entry = [
        json.loads(each) for each in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", container, re.MULTILINE)
    ]
    assert entry == [["mlaas-condor", "serve"], ["--config", "/etc/mlaas-condor/service.toml"]]
    copied = re.findall(r"^COPY (?!--)(.*) \S+$", container, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    tops = re.findall(r"^ {4}mlaas_condor\S* = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert {"setup.cfg", "pyproject.toml", *tops} <= names
    assert all((ROOT / name).exists() for name in names)
    compose = (IMAGES / "service" / "compose.yaml").read_text()
    for name in re.findall(r"(?:file: |- )(\.\./[^:\s]+)", compose):
        assert (IMAGES / "service" / name).exists(), name
    unit = (IMAGES / "service" / "mlaas-condor.service").read_text()
    assert re.findall(r"^ExecStart(?:Pre)?=\S+/mlaas-condor (\S+) (\S+) \S+", unit, re.MULTILINE) == 2 * [
        ("serve", "--config")
    ]
    stop = float(re.search(r"^TimeoutStopSec=(\d+)", unit, re.MULTILINE)[1])
    assert stop > Configuration().service.stop_seconds
