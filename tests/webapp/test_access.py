"""Every request needs the token, and every answer has the security headers."""

import logging
import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cxrbatch.cli import main
from cxrbatch.webapp.app import MAX_BODY_BYTES
from cxrbatch.webapp.security import OPEN_ENDPOINTS

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def every_address(app: Flask) -> list[tuple[str, str, str]]:
    """Return endpoint, method and an address for each route of an app."""
    found = []
    for rule in app.url_map.iter_rules():
        address = re.sub(r"<int:\w+>", "0", rule.rule)
        address = re.sub(r"<(?:\w+:)?\w+>", "0123456789abcdef", address)
        found += [(rule.endpoint, method, address) for method in sorted(rule.methods or ())]
    return found


def test_every_route_refuses_a_client_without_the_token(app: Flask) -> None:
    addresses = every_address(app)
    assert len(addresses) > 12
    for endpoint, method, address in addresses:
        answer = app.test_client().open(
            address, method=method, headers={"Origin": "http://localhost"}
        )
        if endpoint in OPEN_ENDPOINTS:
            assert answer.status_code in (200, 404), address
        else:
            assert answer.status_code == 401, f"{method} {address}"


def test_an_absent_page_needs_the_token_too(app: Flask) -> None:
    assert app.test_client().get("/absent").status_code == 401


@pytest.mark.parametrize("address", ["/", "/absent", "/api/v1/runs", "/static/style.css"])
def test_every_answer_has_the_security_headers(client: FlaskClient, address: str) -> None:
    answer = client.get(address, buffered=True)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_token_in_the_address_is_exchanged_for_a_cookie(app: Flask) -> None:
    visitor = app.test_client()
    answer = visitor.get(f"/?token={TOKEN}")
    assert answer.headers["Location"] == "/"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/%09/evil.example/", "//evil.example/", "/%5Cevil.example"])
def test_the_redirect_after_sign_in_stays_on_this_site(app: Flask, path: str) -> None:
    location = app.test_client().get(f"{path}?token={TOKEN}").headers.get("Location", "/")
    assert location == "/" or re.match(r"/[\w.]", location)


@pytest.mark.parametrize("given", ["", "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
def test_a_wrong_token_is_refused(app: Flask, given: str) -> None:
    visitor = app.test_client()
    assert visitor.get("/", query_string={"token": given}).status_code == 401
    header = {"Authorization": f"Bearer {given}".encode().decode("latin-1")}
    assert visitor.get("/api/v1/runs", headers=header).status_code == 401
    assert visitor.get("/").status_code == 401


def test_a_forged_cookie_is_refused(app: Flask) -> None:
    visitor = app.test_client()
    visitor.set_cookie("cxrbatch", "eyJhZG1pdHRlZCI6dHJ1ZX0.aaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaa")
    assert visitor.get("/").status_code == 401


def test_a_program_may_send_the_token_in_a_header(app: Flask) -> None:
    assert app.test_client().get("/api/v1/runs", headers=BEARER).status_code == 200


TRAVERSALS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "..\\..\\etc\\passwd",
    "....//....//etc/passwd",
    "..;/..;/etc/passwd",
    "..%00/etc/passwd",
    "%00",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "..%c0%af..%c0%afetc%c0%afpasswd",
    "%c0%ae%c0%ae/etc/passwd",
    "%uff0e%uff0e/etc/passwd",
    "．．/etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
    "results.parquet",
    "~root",
]


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize("before", ["/runs/", "/reports/", "/static/", "/api/v1/runs/"])
def test_no_path_in_an_address_leads_out_of_the_folder(
    client: FlaskClient, before: str, name: str
) -> None:
    for after in ("", "/rows"):
        answer = client.get(before + name + after, follow_redirects=True)
        assert answer.status_code in (400, 404)
        assert b"root:" not in answer.data


def test_an_exception_shows_only_an_id_that_the_log_has_too(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("CANARY^NAME")

    monkeypatch.setattr("cxrbatch.webapp.runs.summarise_run", fail)
    with caplog.at_level(logging.DEBUG):
        answer = app.test_client().get("/", headers=BEARER)
    assert answer.status_code == 500
    shown = re.search(r"id <code>(\w+)</code>", answer.text)
    assert shown is not None
    assert shown[1] in caplog.text
    assert "CANARY" not in caplog.text + answer.text


def test_the_limit_on_request_bodies_is_set(app: Flask) -> None:
    assert app.config["MAX_CONTENT_LENGTH"] == MAX_BODY_BYTES


@pytest.mark.parametrize(
    "words", [["--token", "short"], ["--token", "ü" * 20], ["--host", "host.invalid"]]
)
def test_the_command_refuses_a_weak_token_and_an_unknown_host(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["serve", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
