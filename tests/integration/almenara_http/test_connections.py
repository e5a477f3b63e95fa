"""Client certificates, HTTP/2, proxies, redirects and bodies on real servers, as curl sees them."""

import asyncio
import os
import re
import shutil
import ssl
from pathlib import Path

import pytest

from almenara.config import Secret
from almenara_http.client import Outcome, perform_check
from almenara_http.doctor import diagnose
from almenara_http.settings import HttpSettings
from support.authority import Authority
from support.http_site import Handler, answering, check, curl, serving, serving_http2

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]
BODY_SIZE = 28


def requiring(authority: Authority) -> ssl.SSLContext:
    """The context of a server that requires a certificate of this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", server=True))
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def recording(heads: list[str], then: Handler) -> Handler:
    async def record(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        await then(head, writer)

    return record


def new_authority(folder: Path) -> Authority:
    folder.mkdir()
    return Authority(folder)


async def test_client_certificate_is_presented_and_read_again(tmp_path: Path) -> None:
    authority, other = new_authority(tmp_path / "one"), new_authority(tmp_path / "two")
    certificate, key = (tmp_path / name for name in ("client.crt", "client.key"))

    def put(issuer: Authority) -> None:
        for source, target in zip(issuer.issue("client"), (certificate, key), strict=True):
            shutil.copy(source, target)
            status = target.stat()
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns + len(issuer.folder.name)))

    async with serving(answering(), requiring(authority)) as url:
        put(other)
        settings = {"ca": authority.path, "certificate": certificate, "key": key}
        stranger = await perform_check(check(url, **settings))
        put(authority)
        outcome = await perform_check(check(url, **settings))
        reference = await curl("--cacert", authority.path, "--cert", certificate, "--key", key, url)
        missing = await perform_check(check(url, ca=authority.path))
        rejected = await curl("--cacert", authority.path, url)
    # The server may reset the connection before its alert is read.
    assert re.search("(does|may) not accept the client certificate", str(stranger.failure))
    assert (outcome.failure, outcome.code) == (None, reference["http_code"])
    assert rejected["exitcode"] != 0
    assert "require a client certificate" in str(missing.failure).replace("requires", "require")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cert, key: key.write_text("not a key"), "are expected, in PEM format"),
        (lambda cert, key: cert.unlink(), "(certificate) cannot be read: No such file"),
        (lambda cert, key: key.unlink(), "(key) cannot be read: No such file"),
        (
            lambda cert, key: shutil.copy(cert.with_name("other.key"), key),
            "the key is of another certificate",
        ),
    ],
)
async def test_unusable_client_certificate_is_described(
    tmp_path: Path, change: object, reason: str
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    authority.issue("other")
    change(certificate, key)  # type: ignore[operator]
    outcome = await perform_check(check("https://127.0.0.1:1/", certificate=certificate, key=key))
    assert reason in str(outcome.failure)


async def test_encrypted_key_needs_its_password(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, plain = authority.issue("client")
    key = tmp_path / "encrypted.key"
    process = await asyncio.create_subprocess_exec(
        "openssl", "pkcs8", "-topk8", "-in", plain, "-out", key, "-passout", "pass:k3y-word"
    )
    assert await process.wait() == 0
    async with serving(answering(), requiring(authority)) as url:
        settings = {"ca": authority.path, "certificate": certificate, "key": key}
        for password, reason in (("k3y-word", "None"), ("wr0ng-word", "the password of the key"),
                                 (None, "is encrypted, and has no password")):  # fmt: skip
            secret = None if password is None else Secret.of(password)
            outcome = await perform_check(check(url, **settings, key_password=secret))
            assert reason in str(outcome.failure)
            assert "wr0ng-word" not in str(outcome.failure)


async def test_redirect_presents_no_client_certificate_to_another_server(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    optional = requiring(authority)
    optional.verify_mode = ssl.CERT_OPTIONAL
    subjects: list[object] = []

    async def record(head: str, writer: asyncio.StreamWriter) -> None:
        subjects.append(writer.get_extra_info("peercert"))
        await answering()(head, writer)

    async with serving(record, optional) as target:
        redirect = answering("302 Found", headers=f"location: {target}\r\n")
        async with serving(redirect, requiring(authority)) as url:
            settings = {"ca": authority.path, "certificate": certificate, "key": key}
            outcome = await perform_check(check(url, **settings, follow_redirects=True))
            direct = await perform_check(check(target, **settings))
    assert (outcome.failure, outcome.location, outcome.redirects) == (None, target, 1)
    assert direct.failure is None
    assert [bool(subject) for subject in subjects] == [False, True]


@pytest.mark.parametrize("is_offered", [True, False])
async def test_version_is_negotiated_as_curl_does(tmp_path: Path, is_offered: bool) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    server = authority.issue("server", server=True)
    async with serving_http2(*server, client_ca=authority.path) as url:
        settings = {"ca": authority.path, "certificate": certificate, "key": key, "timeout": 5.0}
        expected = "2" if is_offered else "1.1"
        conditions = [f"version == HTTP/{expected}", f'json version == "{expected}"']
        outcome = await perform_check(
            check(url, http2=is_offered, conditions=conditions, **settings)
        )
        reference = await curl(
            "--http2" if is_offered else "--http1.1",
            "--cacert", authority.path, "--cert", certificate, "--key", key, url,
        )  # fmt: skip
        refused = await perform_check(check(url, http2=is_offered, ca=authority.path))
    assert (outcome.failure, outcome.version) == (None, f"HTTP/{expected}")
    assert reference["http_version"] == expected
    assert outcome.validity is not None
    assert refused.failure is not None


async def test_http1_server_is_reached_although_http2_is_offered(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = requiring(authority)
    tls.verify_mode = ssl.CERT_NONE
    async with serving(answering(), tls) as url:
        outcome = await perform_check(check(url, ca=authority.path, http2=True))
    assert (outcome.failure, outcome.version) == (None, "HTTP/1.1")


@pytest.mark.parametrize("is_followed", [True, False])
async def test_redirect_leads_where_curl_reports(is_followed: bool) -> None:
    async with serving(answering("404 Not Found")) as target:
        location = f"{target}login"
        redirect = answering("302 Found", headers=f"location: {location}?token=abc\r\n")
        async with serving(redirect) as url:
            outcome = await perform_check(check(url, follow_redirects=is_followed))
            (finding,) = await diagnose(
                HttpSettings(checks=[check(url, follow_redirects=is_followed, expect=["200-499"])])
            )
            reference = await curl(*(["--location"] if is_followed else []), url)
    place = reference["url_effective" if is_followed else "redirect_url"]
    assert f"{outcome.location}?token=abc" == place
    assert (outcome.code, outcome.redirects) == (reference["http_code"], reference["num_redirects"])
    assert f"to {location}" in finding.message
    assert "abc" not in finding.message
    if is_followed:
        assert str(outcome.failure).endswith(f"after 1 redirect to {location}")


async def test_body_is_sent_to_its_own_server_only() -> None:
    heads: list[str] = []
    body = Secret.of('{"query":"b0dy-word", "n":1}')
    async with serving(recording(heads, answering())) as target:
        redirect = answering("307 Temporary Redirect", headers=f"location: {target}\r\n")
        async with serving(redirect) as url:
            settings = {"method": "POST", "body": body, "follow_redirects": True}
            away = await perform_check(check(url, **settings))
            direct = await perform_check(check(target, **settings))
    assert "would send the body to another server" in str(away.failure)
    assert direct.failure is None
    (head,) = heads
    assert head.startswith("POST / ")
    assert f"content-length: {BODY_SIZE}\r\n" in head.lower()


async def test_host_header_is_replaced_after_a_redirect() -> None:
    heads: list[str] = []
    async with serving(recording(heads, answering())) as target:
        redirect = answering("302 Found", headers=f"location: {target}\r\n")
        async with serving(recording(heads, redirect)) as url:
            headers = {"Host": Secret.of("shop.example")}
            outcome = await perform_check(check(url, headers=headers, follow_redirects=True))
    assert outcome.failure is None
    hosts = [
        line for head in heads for line in head.split("\r\n") if line.lower().startswith("host:")
    ]
    assert [host.partition(": ")[2] for host in hosts] == ["shop.example", target[7:-1]]


async def test_proxy_of_a_check_is_used_with_its_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads: list[str] = []
    async with serving(recording(heads, answering())) as proxy:
        settings = {"proxy": proxy, "proxy_user": "u", "proxy_password": Secret.of("pr0xy-word")}
        outcome = await perform_check(check("http://shop.example/", **settings))
        reference = await curl("--proxy", proxy, "--proxy-user", "u:pr0xy-word",
                               "http://shop.example/")  # fmt: skip
    async with serving(answering("407 Proxy Authentication Required")) as proxy:
        refused = await perform_check(check("https://shop.example/", proxy=proxy))
    unreachable = await perform_check(check("https://x.example/", proxy="http://127.0.0.1:1"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    through = await perform_check(check("http://shop.example/"))
    direct = await perform_check(check("http://shop.example/", proxy=""))
    assert (outcome.failure, outcome.code) == (None, reference["http_code"])
    ours, theirs = (
        [line for line in head.lower().split("\r\n") if line.startswith("proxy-authorization")]
        for head in heads
    )
    assert ours == theirs != []
    assert str(refused.failure).startswith("the proxy refuses to connect: 407")
    assert str(unreachable.failure).startswith("through the proxy http://127.0.0.1:1: ")
    assert "refused" in str(through.failure)
    assert "shop.example cannot be resolved" in str(direct.failure)


async def test_failed_condition_hides_the_credentials_that_a_server_repeats() -> None:
    async def echo(head: str, writer: asyncio.StreamWriter) -> None:
        words = [word for word in head.split() if "word" in word]
        await answering(body=f'{{"seen": "{" ".join(words)}"}}')(head, writer)

    async with serving(echo) as url:
        outcome: Outcome = await perform_check(
            check(url, bearer=Secret.of("b3arer-word"), conditions=["json seen == nothing"])
        )
    assert outcome.failure == "json seen is '***'; expected: json seen == nothing"


async def test_failure_is_readable_whatever_the_headers_are() -> None:
    headers = {"x-try": Secret.of("1"), "content-type": Secret.of("text/plain")}
    async with serving(
        answering("401 Unauthorized", headers="content-type: text/plain\r\n")
    ) as url:
        status = await perform_check(check(url, headers=headers, user="u", password=Secret.of("p")))
        not_json = await perform_check(
            check(url, headers=headers, expect=["401"], conditions=["json a exists"])
        )
    assert status.failure == "status 401, expected 200-399"
    assert "the body (content-type text/plain) is not JSON" in str(not_json.failure)


async def test_nginx_answer_without_client_certificate_is_explained() -> None:
    page = "<center>No required SSL certificate was sent</center>"
    async with serving(answering("400 Bad Request", page)) as url:
        outcome = await perform_check(check(url))
    assert str(outcome.failure).endswith("; the server requires a client certificate")
