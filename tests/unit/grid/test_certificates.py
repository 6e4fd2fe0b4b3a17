"""Certificates and proxies: made, delegated, refused; and what OpenSSL makes of them."""

import base64
import os
import shutil
import subprocess
import time

import pytest
from credential_tools import (
    DAY,
    HOUR,
    Authority,
    curve_key,
    issue,
    key_called,
    name_of,
    pem,
    pem_of_key,
    proxy_by_hand,
    proxy_info,
    save,
    with_attributes,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas_condor.errors import CannotWrite, CredentialFault
from mlaas_condor.grid import certificates
from mlaas_condor.grid.certificates import Credential

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
needs_voms = pytest.mark.skipif(not shutil.which("voms-proxy-fake"), reason="needs voms-proxy-fake")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def jane(authority):
    return authority.credential()


def accepted(authority, path):
    """Tell what OpenSSL says of a proxy file, with the authority's certificates and nothing else."""
    call = ["openssl", "verify", "-allow_proxy_certs", "-CAfile", authority.file, "-untrusted", path, path]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def same(one, other):
    return one.chain == other.chain and one.key.private_numbers() == other.key.private_numbers()


# Making and delegating


def test_a_proxy_is_of_its_holder_and_called_after_its_serial_number(jane):
    proxy = certificates.make_proxy(jane, HOUR)
    assert proxy.level == 1
    assert proxy.subject == f"/DC=test/CN=Jane Doe/CN={proxy.leaf.serial_number}"
    assert proxy.identity == proxy.issuer == "/DC=test/CN=Jane Doe"
    assert proxy.bits == (("RSA", 2048), ("RSA", 2048))
    assert proxy.ends == pytest.approx(time.time() + HOUR, abs=5)
    assert not proxy.legacy and not proxy.limited and proxy.room == float("inf")


def test_a_proxy_says_so_in_a_critical_extension_and_signs_no_certificates(jane):
    leaf = certificates.make_proxy(jane, HOUR).leaf
    info = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"))
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert info.critical and usage.critical
    assert usage.value.digital_signature and not usage.value.key_cert_sign


def test_two_proxies_share_neither_name_nor_key(jane):
    one, other = (certificates.make_proxy(jane, HOUR) for _ in range(2))
    assert one.subject != other.subject
    assert one.leaf.public_key() != other.leaf.public_key()


@given(
    steps=st.lists(st.tuples(st.floats(1, 1e12), st.booleans()), min_size=1, max_size=4),
    life=st.sampled_from([HOUR, 30 * DAY]),
)
@settings(max_examples=15)
def test_each_delegation_adds_a_level_and_none_outlives_those_before(authority, steps, life):
    holder = authority.credential(seconds=life)
    for level, (seconds, here) in enumerate(steps, 1):
        before = time.time()
        if here:
            proxy = certificates.make_proxy(holder, seconds, bits=1024)
        else:
            key, request = certificates.make_request()
            proxy = certificates.assemble(key, certificates.sign_request(request, holder, seconds))
        assert proxy.level == level
        assert proxy.chain[1:] == holder.chain
        assert proxy.ends <= min(holder.ends, time.time() + seconds)
        assert proxy.ends >= min(holder.ends, int(before + seconds))
        assert proxy.starts >= holder.starts
        assert proxy.identity == "/DC=test/CN=Jane Doe"
        assert proxy.subject.startswith(f"{holder.subject}/CN=")
        if proxy.ends <= time.time() + 1:
            return  # a second is soon over, and nothing is made from what has ended
        holder = proxy


@needs_openssl
@pytest.mark.parametrize("level", [1, 2, 4])
def test_openssl_accepts_proxies_of_every_level(authority, jane, tmp_path, level):
    holder = jane
    for _ in range(level):
        key, request = certificates.make_request()
        holder = certificates.assemble(key, certificates.sign_request(request, holder, HOUR))
    certificates.write(holder, tmp_path / "proxy")
    fine, said = accepted(authority, tmp_path / "proxy")
    assert fine, said


@needs_openssl
def test_openssl_accepts_a_proxy_of_an_elliptic_curve_and_a_limited_one(authority, tmp_path):
    holder = authority.credential("/DC=test/CN=Curve", key=curve_key())
    proxy = certificates.make_proxy(holder, HOUR, limited=True)
    assert proxy.bits == (("RSA", 2048), ("EC", 256))
    certificates.write(proxy, tmp_path / "proxy")
    fine, said = accepted(authority, tmp_path / "proxy")
    assert fine, said


@needs_openssl
def test_names_are_written_as_openssl_does(authority, tmp_path):
    names = "/C=DE/O=Grid Germany/OU=Uni Köln/CN=Jörg Müller, Dr./emailAddress=j@test"
    (tmp_path / "certificate").write_text(pem(authority.credential(names).leaf))
    call = ["openssl", "x509", "-noout", "-subject", "-nameopt", "compat", "-in", tmp_path / "certificate"]
    said = subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    assert said.removeprefix("subject=").strip() == authority.credential(names).subject


def test_what_is_made_from_a_limited_proxy_is_limited(jane):
    limited = certificates.make_proxy(jane, HOUR, limited=True)
    assert limited.limited
    assert certificates.make_proxy(limited, HOUR).leaf.extensions.get_extension_for_oid(
        x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
    ).value.value.hex().endswith("060b2b060104019b5001010109")  # fmt: skip


def test_a_proxy_that_allows_no_other_is_not_delegated(jane):
    # A path length of 1, then of 0, in ProxyCertInfo.
    one = proxy_by_hand(jane, info="300f020101300a06082b06010505071501")
    assert one.room == 1
    last = certificates.make_proxy(one, HOUR)
    assert last.room == 0
    with pytest.raises(CredentialFault, match="allows no proxy to be made from it"):
        certificates.make_proxy(last, HOUR)


def test_nothing_is_made_from_what_has_ended_or_not_begun_or_is_of_the_old_kind(authority, jane):
    def make(holder):
        certificates.make_proxy(holder, HOUR)

    with pytest.raises(CredentialFault, match=r"Jane Doe ended on .* UTC; ask the authority"):
        make(authority.credential(seconds=-60))
    with pytest.raises(CredentialFault, match=r"Jane Doe/CN=77 ended on .* UTC; make a new one"):
        make(proxy_by_hand(jane, seconds=-60))
    with pytest.raises(CredentialFault, match=r"valid only from .* UTC on; is the clock here right\?"):
        make(authority.credential(begins=600))
    with pytest.raises(CredentialFault, match="voms-proxy-init -rfc"):
        make(proxy_by_hand(jane, name="proxy", info=None))
    with pytest.raises(CredentialFault, match="there is no key of /DC=test/CN=Jane Doe"):
        make(Credential(jane.chain))


def test_a_proxy_for_no_time_is_a_mistake_of_the_caller(jane):
    with pytest.raises(ValueError, match="a proxy for 0 s"):
        certificates.make_proxy(jane, 0)


# Requests


def test_the_key_of_a_request_stays_where_it_was_made(jane):
    key, request = certificates.make_request()
    answer = certificates.sign_request(request, jane, HOUR)
    assert "PRIVATE KEY" not in request + answer
    assert certificates.assemble(key, answer).level == 1


def test_a_request_that_is_not_signed_with_its_own_key_is_refused(jane):
    _, request = certificates.make_request()
    # The last byte is one of the signature.
    der = bytearray(x509.load_pem_x509_csr(request.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(CredentialFault, match="not signed with its own key; nothing was signed"):
        certificates.sign_request(forged, jane, HOUR)


@pytest.mark.parametrize(
    ("key", "what"),
    [(key_called("weak", 1024), "1024 bits only"), (ed25519.Ed25519PrivateKey.generate(), "neither RSA")],
)
def test_a_request_with_a_key_that_is_no_use_is_refused(jane, key, what):
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(name_of("/CN=x"))
    request = builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(CredentialFault, match=what):
        certificates.sign_request(request, jane, HOUR)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_what_is_no_request_is_refused(jane, text):
    with pytest.raises(CredentialFault, match="this is no request for a certificate"):
        certificates.sign_request(text, jane, HOUR)


def test_an_answer_for_another_key_is_refused(jane):
    _, request = certificates.make_request()
    answer = certificates.sign_request(request, jane, HOUR)
    with pytest.raises(CredentialFault, match="key does not belong to the certificate /DC=test/CN=Jane Doe"):
        certificates.assemble(key_called("another"), answer)


# Files


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_a_credential_that_was_written_is_read_back(authority, tmp_path, kind):
    holder = authority.credential("/DC=test/CN=Curve", key=curve_key()) if kind == "EC" else None
    credential = holder or certificates.make_proxy(authority.credential(), HOUR)
    certificates.write(credential, tmp_path / "proxy")
    assert same(certificates.load(tmp_path / "proxy"), credential)


def test_the_order_in_a_file_is_certificate_key_issuers(jane, tmp_path):
    certificates.write(certificates.make_proxy(jane, HOUR), tmp_path / "proxy")
    kinds = [line for line in (tmp_path / "proxy").read_text().splitlines() if "BEGIN" in line]
    assert [kind.strip("-") for kind in kinds] == [
        "BEGIN CERTIFICATE",
        "BEGIN RSA PRIVATE KEY",
        "BEGIN CERTIFICATE",
    ]


def test_a_file_is_its_owners_alone_from_the_first_byte_on(jane, tmp_path, monkeypatch):
    path = tmp_path / "proxy"
    path.write_text("what was there before")
    path.chmod(0o644)
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (seen.append(os.fstat(handle).st_mode & 0o777), fsync(handle))
    )
    before = os.umask(0)
    try:
        certificates.write(jane, path)
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_says_so_and_leaves_nothing(jane, tmp_path, monkeypatch):
    with pytest.raises(CannotWrite, match=r"missing/proxy cannot be written: No such file or directory"):
        certificates.write(jane, tmp_path / "missing" / "proxy")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "proxy").write_text("before")
    with pytest.raises(CannotWrite, match="No space left on device"):
        certificates.write(jane, tmp_path / "proxy")
    assert [path.name for path in tmp_path.iterdir()] == ["proxy"]
    assert (tmp_path / "proxy").read_text() == "before"


def test_keys_are_never_shown(jane):
    assert "key" not in repr(jane)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "nothing in it is PEM"),
        (b"\xff\x00nonsense", "nothing in it is PEM"),
        (b"x" * (2**20 + 1), "too large to be a certificate"),
        (pem_of_key(key_called("alone")).encode(), "holds no certificate"),
    ],
)
def test_a_file_that_is_no_credential_says_why(tmp_path, content, what):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CredentialFault, match=what) as caught:
        certificates.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_a_folder_and_a_certificate_alone_are_no_credentials(jane, tmp_path):
    with pytest.raises(CredentialFault, match="there is no"):
        certificates.load(tmp_path / "missing")
    with pytest.raises(CredentialFault, match="is no file"):
        certificates.load(tmp_path)
    (tmp_path / "certificate").write_text(pem(jane.leaf))
    with pytest.raises(CredentialFault, match="no private key"):
        certificates.load(tmp_path / "certificate")


def test_a_damaged_certificate_is_named_by_its_number(jane, tmp_path):
    path = save(certificates.make_proxy(jane, HOUR), tmp_path / "proxy")
    head, mark, tail = path.read_text().rpartition("-----BEGIN CERTIFICATE-----")
    path.write_text(f"{head}{mark}\nAAAA{tail[6:]}")
    with pytest.raises(CredentialFault, match=r"certificate 2 of .* is damaged"):
        certificates.load(path)


def test_a_key_of_another_certificate_is_refused(jane, tmp_path):
    path = save(Credential(jane.chain, key_called("another")), tmp_path / "proxy")
    with pytest.raises(CredentialFault, match="key does not belong to the certificate /DC=test/CN=Jane Doe"):
        certificates.load(path)


def test_a_chain_with_a_gap_is_refused(jane, tmp_path):
    deep = certificates.make_proxy(certificates.make_proxy(jane, HOUR), HOUR)
    path = save(Credential((deep.chain[0], deep.chain[2]), deep.key), tmp_path / "proxy")
    with pytest.raises(CredentialFault, match=r"not one chain: .* and is followed by /DC=test/CN=Jane Doe$"):
        certificates.load(path)


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_a_proxy_signed_by_somebody_else_of_the_same_name_is_refused(authority, tmp_path, kind):
    key = curve_key() if kind == "EC" else key_called("impostor")
    impostor = authority.credential(key=key)
    proxy = certificates.make_proxy(impostor, HOUR)
    path = save(Credential((proxy.leaf, *authority.credential().chain), proxy.key), tmp_path / "proxy")
    with pytest.raises(CredentialFault, match="is not signed by /DC=test/CN=Jane Doe"):
        certificates.load(path)


def test_a_proxy_whose_name_is_not_its_issuers_and_one_part_more_is_refused(jane, tmp_path):
    name = "/DC=test/CN=Somebody Else/CN=1"
    certificate, key = issue(name, jane.leaf.subject, jane.key, extensions=[proxy_info()])
    path = save(Credential((certificate, *jane.chain), key), tmp_path / "proxy")
    with pytest.raises(CredentialFault, match="Somebody Else/CN=1 is no name for a proxy"):
        certificates.load(path)


def test_a_proxy_beyond_the_path_length_is_refused(jane, tmp_path):
    one = proxy_by_hand(jane, info="300f020100300a06082b06010505071501")
    path = save(proxy_by_hand(one, name="2", key=key_called("beyond")), tmp_path / "proxy")
    with pytest.raises(CredentialFault, match="does not allow it"):
        certificates.load(path)


def test_a_proxy_whose_extension_is_nonsense_is_refused(jane, tmp_path):
    path = save(proxy_by_hand(jane, info="0500"), tmp_path / "proxy")
    with pytest.raises(CredentialFault, match="not what RFC 3820 says"):
        certificates.load(path)


def test_an_old_kind_of_proxy_is_told_from_a_certificate(jane, tmp_path):
    old = certificates.load(save(proxy_by_hand(jane, name="limited proxy", info=None), tmp_path / "proxy"))
    assert (old.level, old.legacy, old.limited) == (1, True, True)
    assert old.identity == "/DC=test/CN=Jane Doe"
    assert (jane.level, jane.legacy) == (0, False)


def test_the_end_is_that_of_the_certificate_that_ends_first(authority, tmp_path):
    holder = authority.credential(seconds=120)
    proxy = certificates.load(save(proxy_by_hand(holder, seconds=DAY), tmp_path / "proxy"))
    assert proxy.ends == holder.ends < time.time() + 121


@given(which=st.integers(0, 1), where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(max_examples=60)
def test_damage_anywhere_is_a_fault_and_no_crash(jane, tmp_path_factory, which, where, value):
    ders = [each.public_bytes(serialization.Encoding.DER) for each in proxy_by_hand(jane).chain]
    damaged = bytearray(ders[which])
    damaged[int(where * len(damaged))] = value
    ders[which] = bytes(damaged)
    texts = [
        f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"
        for der in ders
    ]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_text(pem_of_key(key_called("by hand")) + "".join(texts))
    try:
        certificates.load(path)
    except CredentialFault as fault:
        assert str(path) in str(fault)


# Certificate and key of a person


def test_a_pair_is_read_with_and_without_a_pass_phrase(authority, tmp_path):
    certificate, key = authority.pair()
    assert certificates.load_pair(certificate, key).level == 0
    assert not certificates.needs_password(key)
    certificate, key = authority.pair(password=b"open sesame", stem="locked")
    assert certificates.needs_password(key)
    assert certificates.load_pair(certificate, key, b"open sesame").key is not None
    with pytest.raises(CredentialFault, match="the pass phrase is wrong, or the key damaged"):
        certificates.load_pair(certificate, key, b"wrong")
    with pytest.raises(CredentialFault, match="is encrypted, and there is no pass phrase"):
        certificates.load_pair(certificate, key)


def test_authorities_after_a_certificate_are_left_out_of_its_proxies(authority):
    certificate, key = authority.pair(stem="more")
    certificate.write_text(certificate.read_text() + 2 * pem(authority.certificate))
    assert len(certificates.load_pair(certificate, key).chain) == 1


def test_a_proxy_can_be_the_pair_and_keeps_its_chain(jane, tmp_path):
    path = save(certificates.make_proxy(jane, HOUR), tmp_path / "proxy")
    assert certificates.load_pair(path, path).level == 1


def test_a_key_that_others_can_use_or_that_is_missing_is_refused(authority):
    certificate, key = authority.pair(stem="open")
    key.chmod(0o640)
    with pytest.raises(CredentialFault, match=f"its mode is 0640; run: chmod 400 {key}"):
        certificates.load_pair(certificate, key)
    key.unlink()
    with pytest.raises(CredentialFault, match=f"there is no key {key}"):
        certificates.load_pair(certificate, key)


def test_what_a_key_is_not_is_said(authority, tmp_path):
    certificate, _ = authority.pair(stem="odd")
    wrong = tmp_path / "key.pem"
    wrong.touch(0o600)
    wrong.write_text(certificate.read_text())
    with pytest.raises(CredentialFault, match="holds no private key"):
        certificates.load_pair(certificate, wrong)
    wrong.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(CredentialFault, match="the key is damaged"):
        certificates.load_pair(certificate, wrong)
    wrong.write_text(pem_of_key(ed25519.Ed25519PrivateKey.generate()))
    with pytest.raises(CredentialFault, match="neither RSA nor EC"):
        certificates.load_pair(certificate, wrong)


def test_a_file_from_a_browser_is_certificate_and_key(jane, authority, tmp_path):
    path = tmp_path / "usercred.p12"
    path.touch(0o600)
    how = serialization.BestAvailableEncryption(b"open sesame")
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(b"Jane", jane.key, jane.leaf, [authority.certificate], how)
    )
    assert certificates.is_pkcs12(path) and certificates.needs_password(path)
    found = certificates.load_pair(path, tmp_path / "none", b"open sesame")
    assert same(found, jane)
    with pytest.raises(CredentialFault, match="wrong pass phrase, or no PKCS#12 file"):
        certificates.load_pair(path, path, b"wrong")
    path.chmod(0o644)
    with pytest.raises(CredentialFault, match="can be used by others"):
        certificates.load_pair(path, path, b"open sesame")


def test_a_file_from_a_browser_without_a_key_is_refused(jane, tmp_path):
    path = tmp_path / "usercred.p12"
    path.touch(0o600)
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(b"Jane", None, None, [jane.leaf], serialization.NoEncryption())
    )
    assert not certificates.needs_password(path)
    with pytest.raises(CredentialFault, match="does not hold both"):
        certificates.load_pair(path, path)


# VOMS attributes


def test_a_proxy_without_attributes_has_none(jane):
    assert certificates.voms(certificates.make_proxy(jane, HOUR)) == ([], None)


@needs_voms
def test_attributes_of_a_real_tool_are_read_at_every_level(authority, tmp_path):
    proxy = certificates.load(with_attributes(authority, tmp_path / "proxy"))
    names, ends = certificates.voms(proxy)
    assert names == ["/cms", "/cms/Role=production"]
    assert ends == pytest.approx(time.time() + 6 * HOUR, abs=360)
    deep = certificates.make_proxy(certificates.make_proxy(proxy, HOUR), HOUR)
    assert certificates.voms(deep) == (names, ends)


@pytest.mark.parametrize(
    "value", ["", "00", "0500", "3000", "30023000", "3004300230 00".replace(" ", ""), "3006300430020500"]
)
def test_attributes_that_are_nonsense_are_a_fault_and_no_crash(jane, value):
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5"), bytes.fromhex(value)
    )
    with pytest.raises(CredentialFault, match="its VOMS attributes cannot be read"):
        certificates.voms(proxy_by_hand(jane, extensions=[(extension, False)]))
