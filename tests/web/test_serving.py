"""The service starts, says what is wrong when it cannot, and ends: as asked, or killed."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
from functools import partial
from ipaddress import ip_address

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from serving_tools import PROGRAM, lives, served, small, wait_until

from mlaas_condor.errors import RequestError
from mlaas_condor.server.configuration import Configuration
from mlaas_condor.server.serving import processes as serving
from mlaas_condor.settings import load


def certificate(folder, name, days=90):
    """Write a key and a certificate for 127.0.0.1; return the paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = {"certificate": folder / f"{name}.pem", "key": folder / f"{name}.key"}
    paths["certificate"].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths["key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    paths["key"].chmod(0o600)
    return paths


@pytest.fixture
def temporary(tmp_path):
    """The variables of a service whose folder for temporary files is its own."""
    (tmp_path / "tmp").mkdir()
    return {"TMPDIR": str(tmp_path / "tmp")}


# ---- what is looked at before


def problems_of(tmp_path, **sections):
    """Return what stands against a configuration."""
    configuration = Configuration.model_validate({"service": {"port": 0}, **sections})
    try:
        serving.check(configuration, load(home=str(tmp_path / "home")))
    except RequestError as error:
        return [f"{each.where} {each.what}" for each in error.problems]
    return []


def warnings_of(tmp_path, **sections):
    configuration = Configuration.model_validate({"service": {"port": 0}, **sections})
    return "\n".join(serving.check(configuration, load(home=str(tmp_path / "home"), pool="personal")))


def test_the_default_is_in_order_and_one_hears_what_it_means(tmp_path):
    said = warnings_of(tmp_path)
    assert "nobody logs in" in said
    assert "mlaas-condor pool up" in said


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    tls = certificate(tmp_path, "one") | {"key": certificate(tmp_path, "other")["key"]}
    (tmp_path / "token").touch()
    (tmp_path / "home").write_text("no folder")
    listen = {"port": 0, "metrics_token_file": tmp_path / "token", "log": tmp_path / "no" / "log"}
    inputs = {"folders": [tmp_path / "nowhere"]}
    said = "\n".join(problems_of(tmp_path, tls=tls, service=listen, inputs=inputs))
    for part in (
        "home/service cannot be written",
        "do not belong together",
        "token is empty",
        "no/log cannot be written",
        "nowhere is no folder",
    ):
        assert part in said


def test_a_certificate_that_cannot_be_read_or_ends_soon(tmp_path):
    tls = certificate(tmp_path, "soon", days=3)
    assert problems_of(tmp_path, tls=tls) == []
    assert "ends in 3 days" in warnings_of(tmp_path, tls=tls)
    tls["key"].chmod(0o644)
    assert "everybody on this machine can read" in warnings_of(tmp_path, tls=tls)
    tls["key"].unlink()
    assert "soon.key cannot be read" in "\n".join(problems_of(tmp_path, tls=tls))


def test_one_user_only_on_loopback(tmp_path):
    assert "can be reached from elsewhere" in "\n".join(
        problems_of(tmp_path, service={"host": "0.0.0.0", "port": 0})
    )


def test_several_users_of_a_personal_pool_are_warned_of(tmp_path):
    proxy = {"kind": "oauth2-proxy", "addresses": ["127.0.0.1"]}
    assert "the account of the service" in warnings_of(tmp_path, login={"method": "proxy", "proxy": proxy})


def test_the_command_says_what_is_wrong_and_ends_with_2(tmp_path, command):
    toml = tmp_path / "service.toml"
    toml.write_text('[service]\nprot = 1\nworkers = 0\n[login]\nmethod = "tokens"\n')
    code, out, err = command("serve", "--config", toml, "--check")
    assert (code, out) == (2, "")
    assert "3 problems, the service does not start" in err
    assert "service.toml: service.prot: unknown key (did you mean 'port'" in err
    assert "login: method 'tokens' needs a section [login.tokens]" in err
    toml.write_text('home = "data"\n[service]\nport = 0\n')
    code, out, err = command("serve", "--config", toml, "--check", "--workers", 3)
    assert (code, out) == (0, f"{toml} is in order\n")
    assert (tmp_path / "data" / "service").is_dir()


# ---- the service runs


def test_a_port_is_shared_with_nobody(tmp_path, monkeypatch):
    with served(small(tmp_path)) as service:
        host, port = service.address
        assert requests.get(f"{service.url}/environ", timeout=30).json()["SERVER_PORT"] == str(port)
        monkeypatch.setattr(serving, "_PORT_SECONDS", 0.0)
        assert f"cannot listen on {host}:{port}" in "\n".join(
            problems_of(tmp_path, service={"host": host, "port": port})
        )
    assert problems_of(tmp_path, service={"host": host, "port": port}) == []


def test_it_stops_when_asked_and_finishes_what_it_does(tmp_path, temporary):
    with served(small(tmp_path, workers=2), temporary) as service:
        assert len([*(tmp_path / "tmp").iterdir()]) == 1
        workers = service.workers()
        assert len(workers) == 2
        follower = requests.get(f"{service.url}/stream?note=stopped", stream=True, timeout=60)
        found = []
        sleeper = threading.Thread(
            target=lambda: found.append(requests.get(f"{service.url}/sleep?seconds=1", timeout=60).text)
        )
        sleeper.start()
        wait_until((tmp_path / "asleep").exists)
        assert service.stop() == 0
        sleeper.join()
        assert found == ["awake\n"]
        assert follower.content == b"data: /stream True\n\n"
        assert not any(map(lives, workers))
        assert (tmp_path / "stopped.ended").read_text() == "True"
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_ctrl_c_stops_it_too(tmp_path):
    with served(small(tmp_path)) as service:
        workers = service.workers()
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(60) == 0
        wait_until(lambda: not any(map(lives, workers)))


def test_what_does_not_end_is_ended(tmp_path):
    with served(small(tmp_path, stop_seconds=1)) as service:
        threading.Thread(target=partial(ignored, f"{service.url}/sleep?seconds=600"), daemon=True).start()
        wait_until((tmp_path / "asleep").exists)
        assert service.stop() == 0


def ignored(url):
    with contextlib.suppress(requests.exceptions.ConnectionError):
        requests.get(url, timeout=60)


def test_a_process_that_is_killed_comes_back(tmp_path):
    with served(small(tmp_path, workers=2)) as service:
        first, second = service.workers()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(set(service.workers()) - {first}) == 2)
        assert second in service.workers()
        for _ in range(10):
            wait_until(partial(answers, service))
        assert service.stop() == 0


def answers(service):
    try:
        return requests.get(f"{service.url}/environ", timeout=30).ok
    except requests.exceptions.ConnectionError:  # it went to the one that is not there yet
        return False


def test_nothing_is_left_of_a_service_that_is_killed(tmp_path, temporary):
    with served(small(tmp_path, workers=2), temporary) as service:
        host, port = service.address
        workers = service.workers()
        # What it still does keeps nobody from starting another.
        threading.Thread(target=partial(ignored, f"{service.url}/sleep?seconds=5"), daemon=True).start()
        wait_until((tmp_path / "asleep").exists)
        service.stop(signal.SIGKILL)
        assert problems_of(tmp_path, service={"host": host, "port": port}) == []
        wait_until(lambda: not any(map(lives, workers)))
    (left,) = (tmp_path / "tmp").iterdir()
    with served(small(tmp_path, port=port), temporary) as service:
        assert answers(service)
        assert not left.exists()  # the next one tidies up


def test_it_ends_when_its_processes_cannot_start(tmp_path):
    (tmp_path / "cannot").touch()
    done = subprocess.run(small(tmp_path), stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    assert "it cannot start" in done.stderr


def test_the_whole_service_without_a_pool(tmp_path):
    """What HTCondor is not needed for goes on; the processes count together."""
    log = tmp_path / "log"
    (tmp_path / "service.toml").write_text(f'pool = "personal"\n[service]\nport = 0\nlog = "{log}"\n')
    with served([PROGRAM, "serve", "--config", tmp_path / "service.toml"]) as service:
        assert any("nobody logs in" in line for line in service.lines)
        assert requests.get(f"{service.url}/readyz", timeout=60).json()["status"] == "degraded"
        for _ in range(20):  # each on a connection of its own, to whichever process
            assert requests.get(f"{service.url}/hello", timeout=60).text == "Hello World"
        text = requests.get(f"{service.url}/metrics", timeout=60).text
        assert 'mlaas_condor_requests_total{method="GET",route="/hello",status="200"} 20.0' in text
        assert "mlaas_condor_pool_up 0.0" in text
        assert requests.get(f"{service.url}/a%00b", timeout=60).status_code == 400
        assert service.stop() == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    hellos = [line for line in lines if line.get("path") == "/hello"]
    assert len({line["request_id"] for line in hellos}) == 20
    assert len({line["owner"] for line in hellos}) == 1


# ---- TLS


@pytest.fixture
def tls(tmp_path):
    return certificate(tmp_path, "first")


def test_tls_and_a_new_certificate(tmp_path, tls):
    with served(small(tmp_path, tls)) as service:
        assert service.url.startswith("https://")
        verify = str(tls["certificate"])
        found = requests.get(f"{service.url}/environ", verify=verify, timeout=30).json()
        assert found["wsgi.url_scheme"] == "https"
        other = certificate(tmp_path, "second")
        for name in ("certificate", "key"):
            other[name].replace(tls[name])
        service.process.send_signal(signal.SIGHUP)
        wait_until(partial(has_certificate, service, tls["certificate"].read_text()))
        assert requests.get(f"{service.url}/environ", verify=verify, timeout=30).ok
        assert service.stop() == 0


def has_certificate(service, text):
    """Tell whether all processes have a certificate: for a while an old one is there beside the new."""
    shown = {ssl.get_server_certificate(service.address).strip() for _ in range(20)}
    return shown == {text.strip()}


def test_http_2_where_there_is_tls(tmp_path, tls):
    known = subprocess.run(["curl", "--version"], capture_output=True).stdout if shutil.which("curl") else b""
    if b"HTTP2" not in known:
        pytest.skip("this curl does not speak HTTP/2")
    with served(small(tmp_path, tls)) as service:
        curl = ["curl", "--silent", "--fail", "--http2", "--cacert", tls["certificate"]]
        asked = subprocess.run([*curl, f"{service.url}/environ"], capture_output=True, text=True)
        assert '"SERVER_PROTOCOL":"HTTP/2' in asked.stdout
        assert f'"HTTP_HOST":"127.0.0.1:{service.address[1]}"' in asked.stdout
        sent = subprocess.run([*curl, "--data", "abc", f"{service.url}/echo"], capture_output=True, text=True)
        assert '"bytes":3' in sent.stdout
