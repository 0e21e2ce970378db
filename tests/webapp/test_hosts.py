"""Which hosts a request may name, and which pages of a browser may send one."""

import http.client
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from flask import Flask

from cxrbatch.cli import main
from cxrbatch.errors import UsageError
from cxrbatch.webapp.app import close_app, create_app
from cxrbatch.webapp.security import allowed_hosts, parse_host

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@contextmanager
def app_for(folder: Path, *further: str) -> Iterator[Flask]:
    app = create_app(folder, token=TOKEN, hosts=allowed_hosts("127.0.0.1", further))
    yield app
    close_app(app)


def status(app: Flask, host: str) -> int:
    overrides = {"HTTP_HOST": host}
    answer = app.test_client().get("/api/v1/runs", headers=BEARER, environ_overrides=overrides)
    return answer.status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "localhost.evil.example", "[::1", "", "127.0.0.2"]
)
def test_a_foreign_host_is_refused(app: Flask, host: str) -> None:
    assert status(app, host) == 400


@pytest.mark.parametrize(
    "host", ["localhost:9000", "127.0.0.1", "[::1]:8765", "LOCALHOST", "[0:0::1]", "localhost.:1"]
)
def test_names_of_this_machine_are_allowed(app: Flask, host: str) -> None:
    assert status(app, host) == 200


def test_a_server_on_all_addresses_allows_its_own_names_alone() -> None:
    assert "evil.example" not in allowed_hosts("0.0.0.0")
    assert "xray.example" in allowed_hosts("xray.example")


def test_a_refused_host_is_told_of_allow_host(app: Flask) -> None:
    overrides = {"HTTP_HOST": "evil.example"}
    answer = app.test_client().get("/api/v1/runs", headers=BEARER, environ_overrides=overrides)
    assert "--allow-host" in answer.get_json()["error"]


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("cxr.hospital.example", "cxr.hospital.example"),
        ("cxr.hospital.example", "CXR.Hospital.Example.:8443"),
        ("CXR.Hospital.EXAMPLE.", "cxr.hospital.example"),
        ("cxr.hospital.example:8443", "cxr.hospital.example"),
        ("röntgen.example", "xn--rntgen-wxa.example"),
        ("xn--rntgen-wxa.example", "xn--rntgen-wxa.example"),
        ("my_container", "my_container:80"),
        ("192.0.2.7", "192.0.2.7:9000"),
        ("[2001:db8:0::7]", "[2001:DB8::7]:9000"),
        ("2001:db8::7", "[2001:db8::7]"),
        ("[2001:db8::7]:443", "[2001:db8::7]"),
    ],
)
def test_only_allowed_hosts_are_answered(folder: Path, given: str, host: str) -> None:
    with app_for(folder, "other.example", given) as app:
        assert status(app, host) == 200
        assert status(app, "other.example") == 200
        assert status(app, "localhost") == 200
        assert status(app, "evil.example") == 400
        assert status(app, f"{given}.evil.example") == 400


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("*", "wildcard"),
        ("*.example", "wildcard"),
        ("https://cxr.example", "without http"),
        ("straße.example", "xn--"),
        *((text, "no host") for text in ("", ".", "a..b", "a b", "cxr.example/", "a@b", "a,b")),
        *((text, "no host") for text in ("a:0", "a:65536", "a:b", "[::1", "[1.2.3.4]", "[::g]")),
        ("a" * 64, "no host"),
    ],
)
def test_an_invalid_host_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=re.escape(remedy)):
        parse_host(text)


def test_the_command_refuses_an_invalid_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", str(tmp_path), "--allow-host", "*"]) == 2
    monkeypatch.setenv("CXRBATCH_SERVE_ALLOW_HOST", "cxr.example http://b.example")
    assert main(["serve", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "wildcard" in first
    assert "b.example" in second


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("cxr.example", "https://cxr.example", True),
        ("cxr.example", "https://CXR.example", True),
        ("cxr.example:443", "https://cxr.example", True),
        ("cxr.example", "https://cxr.example:443", True),
        ("cxr.example:8443", "https://cxr.example:8443", True),
        ("cxr.example", "https://cxr.example:8443", False),
        ("named.example", "https://named.example:8443", True),
        ("named.example", "https://named.example:8444", False),
        ("[2001:db8::7]:8443", "https://[2001:db8::7]:8443", True),
        ("localhost:8765", "http://localhost:8765", True),
        ("localhost:8765", "http://localhost:3000", False),
        ("cxr.example", "https://evil.example", False),
        ("cxr.example", "https://cxr.example.evil.example", False),
        ("cxr.example", "https://cxr.example@evil.example", False),
        ("cxr.example", "ftp://cxr.example", False),
        ("cxr.example", "cxr.example", False),
        ("cxr.example", "null", False),
        ("cxr.example", "", False),
    ],
)
def test_only_a_page_of_the_same_host_and_port_may_post(
    folder: Path, host: str, origin: str, expected: bool
) -> None:
    further = ("cxr.example", "named.example:8443", "[2001:db8::7]")
    with app_for(folder, *further) as app:
        answer = app.test_client().post(
            "/api/v1/score",
            headers={**BEARER, "Origin": origin},
            environ_overrides={"HTTP_HOST": host},
        )
    # Allowed to send, it is asked for the file that is missing.
    assert answer.status_code == (400 if expected else 403)


def test_the_environment_may_name_allowed_hosts(
    served: Callable[..., AbstractContextManager[str]], tmp_path: Path
) -> None:
    variables = {"CXRBATCH_SERVE_ALLOW_HOST": "cxr.example röntgen.example"}
    with served(tmp_path, variables=variables) as address:
        for host, expected in (("cxr.example", 200), ("xn--rntgen-wxa.example", 200), ("b", 400)):
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
            connection.request("GET", "/api/v1/runs", headers={**BEARER, "Host": host})
            assert connection.getresponse().status == expected
            connection.close()
        # An address that names a server, as for a proxy, must name the one of the header.
        for named, expected in (("cxr.example", 200), ("evil.example", 400)):
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
            target = f"http://{named}/api/v1/runs"
            connection.request("GET", target, headers={**BEARER, "Host": "cxr.example"})
            assert connection.getresponse().status == expected
            connection.close()
