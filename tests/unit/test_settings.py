"""Each setting of the contract's section 2: its default, valid values, and one line for an invalid one."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accepted.domain.network.servers import SmtpServer
from accepted.errors import ConfigurationError
from accepted.settings import Settings, load

SECRET = "hunter2secret"


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the caller's variables and `.env`."""
    import os

    for name in list(os.environ):
        if name.startswith("ACCEPTED_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def set_to(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"ACCEPTED_{name}", value)
    return load()


DEFAULTS = {
    "database_url": None,
    "broker_url": "postgres",
    "handlers": ("accepted_worker.handlers",),
    "auth": "required",
    "idempotency_key": "optional",
    "idempotency_ttl": 86400,
    "max_body_bytes": 16 * 1024 * 1024,
    "max_payload_bytes": 256 * 1024,
    "max_result_bytes": 256 * 1024,
    "webhook_secret": None,
    "smtp_url": None,
    "smtp_from": None,
    "smtp_from_allow": (),
    "retention": 7 * 86400,
    "retention_failed": 30 * 86400,
    "shutdown_grace": 30,
    "ack_within": 600,
    "lease_ttl": 30,
    "blocked_limit": 30,
    "keep_alive": 75,
    "metrics_port": None,
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_the_contracts(name: str) -> None:
    assert getattr(load(), name) == DEFAULTS[name]


@pytest.mark.parametrize(
    ("name", "value", "attribute", "read"),
    [
        ("DATABASE_URL", "postgresql://u:p@h/d", "database_url", "postgresql://u:p@h/d"),
        ("DATABASE_URL", "postgres://u@[::1]:5433,h:5432/d", "database_url", "postgres://u@[::1]:5433,h:5432/d"),
        ("DATABASE_URL", "postgresql:///d?host=/run", "database_url", "postgresql:///d?host=/run"),
        ("BROKER_URL", "amqp://a, amqps://b", "broker_urls", ("amqp://a", "amqps://b")),
        ("HANDLERS", "one, two.three", "handlers", ("one", "two.three")),
        ("AUTH", "off", "auth", "off"),
        ("IDEMPOTENCY_KEY", "required", "idempotency_key", "required"),
        ("IDEMPOTENCY_TTL", "1", "idempotency_ttl", 1),
        ("RETENTION", "7d", "retention", 7 * 86400),
        ("RETENTION", "12h", "retention", 12 * 3600),
        ("RETENTION", "90m", "retention", 90 * 60),
        ("RETENTION_FAILED", "3600", "retention_failed", 3600),
        ("SHUTDOWN_GRACE", "0", "shutdown_grace", 0),
        ("LEASE_TTL", "1", "lease_ttl", 1),
        ("BLOCKED_LIMIT", "off", "blocked_limit", None),
        ("BLOCKED_LIMIT", "2m", "blocked_limit", 120),
        ("METRICS_PORT", "off", "metrics_port", None),
        ("METRICS_PORT", "9100", "metrics_port", 9100),
        ("WEBHOOK_SECRET", "whsec_" + "A" * 32, "webhook_secret", "whsec_" + "A" * 32),
        ("SMTP_URL", f"smtp://u:{SECRET}@h", "smtp_url", SmtpServer("h", 587, "starttls", "u", SECRET)),
        ("SMTP_FROM", "noreply@shop.example", "smtp_from", "noreply@shop.example"),
        ("SMTP_FROM_ALLOW", "a@b.example, @c.example", "smtp_from_allow", ("a@b.example", "@c.example")),
        ("AUTH", "", "auth", "required"),
    ],
)
def test_valid_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, attribute: str, read: object) -> None:
    assert getattr(set_to(monkeypatch, **{name: value}), attribute) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/d"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h:99999/d"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}/@h/d"),
        ("BROKER_URL", f"amqp://u:{SECRET}@h:99999/,amqp://u:{SECRET}@h/"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/d?sslmod=require"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h/d?sslrootcert=/no/such/file"),
        ("BROKER_URL", f"amqp://u:{SECRET}@h/?hearbeat=5"),
        ("BROKER_URL", f"redis://u:{SECRET}@h"),
        ("BROKER_URL", f"amqp://ok,redis://u:{SECRET}@h"),
        ("AUTH", "on"),
        ("AUTH", "Required"),
        ("IDEMPOTENCY_KEY", "yes"),
        ("IDEMPOTENCY_TTL", "0"),
        ("IDEMPOTENCY_TTL", "-1"),
        ("IDEMPOTENCY_TTL", "1 day"),
        ("MAX_BODY_BYTES", "16 MiB"),
        ("MAX_PAYLOAD_BYTES", "0"),
        ("MAX_RESULT_BYTES", "-1"),
        ("MAX_RESULT_BYTES", "1023"),
        ("EGRESS_ALLOW", "300.0.0.0/8"),
        ("WEBHOOK_SECRET", SECRET),
        ("SMTP_URL", f"smtp+plain://u:{SECRET}@h"),
        ("SMTP_FROM", "nobody"),
        ("SMTP_FROM_ALLOW", "@shop.example,shop.example"),
        ("SMTP_FROM_ALLOW", "*"),
        ("UPLOAD_SPACE", "1000"),
        ("WEBHOOK_SECRET", f"whsec_{SECRET}"),
        ("RETENTION", "7 weeks"),
        ("RETENTION", "-7d"),
        ("RETENTION", "nan"),
        ("RETENTION", "316310400"),
        ("RETENTION", "3661d"),
        ("RETENTION_FAILED", "0"),
        ("METRICS_PORT", "0"),
        ("METRICS_PORT", "on"),
        ("BLOCKED_LIMIT", "on"),
        ("BLOCKED_LIMIT", "0"),
        ("SHUTDOWN_GRACE", "-1"),
        ("SHUTDOWN_GRACE", "nan"),
        ("SHUTDOWN_GRACE", "inf"),
        ("ACK_WITHIN", "0"),
        ("ACK_WITHIN", "nan"),
        ("LEASE_TTL", "0"),
        ("LEASE_TTL", "nan"),
    ],
)
def test_an_invalid_value_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        set_to(monkeypatch, **{name: value})
    text = str(raised.value)
    assert len(text.splitlines()) == 1
    assert f"ACCEPTED_{name}" in text
    assert SECRET not in text
    assert SECRET in value or value in text


SECRETS = {
    "DATABASE_URL": f"postgresql://u:{SECRET}@h/d",
    "BROKER_URL": f"amqp://u:{SECRET}@h/v",
    "WEBHOOK_SECRET": "whsec_" + "A" * 32,
    "ALERT_URL": f"https://h/{SECRET}",
    "SMTP_URL": f"smtp://u:{SECRET}@h",
}


@pytest.mark.parametrize("end", [" ", "\n", "\r\n", "\t", "\xa0"])
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_ends_in_white_space_is_taken_without_it(
    monkeypatch: pytest.MonkeyPatch, name: str, end: str
) -> None:
    """As it does when it was read from a file."""
    assert set_to(monkeypatch, **{name: SECRETS[name] + end}) == set_to(monkeypatch, **{name: SECRETS[name]})


@pytest.mark.parametrize("middle", [" ", "\n", "\x7f", "é"])
@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_with_anything_in_it_is_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, middle: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        set_to(monkeypatch, **{name: SECRET + middle + SECRETS[name]})
    assert SECRET not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as raised:
        set_to(monkeypatch, AUTH="x", LEASE_TTL="y")
    assert "ACCEPTED_AUTH" in str(raised.value)
    assert "ACCEPTED_LEASE_TTL" in str(raised.value)


@settings(deadline=None)  # how long a call takes says more about the machine's load than about the text
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for name in ("idempotency_ttl", "retention", "egress_allow", "shutdown_grace", "webhook_secret", "broker_url"):
        try:
            load(**{name: text})
        except ConfigurationError as error:
            refused = str(error)
        else:
            continue
        assert len(refused.splitlines()) == 1, name


def test_a_command_line_option_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCEPTED_DATABASE_URL", "postgresql://environment/d")
    assert load(database_url="postgresql://option/d").database_url == "postgresql://option/d"
    assert load(database_url=None).database_url == "postgresql://environment/d"


def test_a_dot_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ACCEPTED_AUTH=off\nACCEPTED_LEASE_TTL=5\nOTHER=1\n")
    monkeypatch.setenv("ACCEPTED_LEASE_TTL", "6")
    assert (load().auth, load().lease_ttl) == ("off", 6)


def test_a_missing_database_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="ACCEPTED_DATABASE_URL"):
        load().require_database()


@pytest.mark.parametrize(("value", "read"), [("/a", "/a"), ("/a/b-1/", "/a/b-1"), ("/", ""), ("", "")])
def test_a_root_path(monkeypatch: pytest.MonkeyPatch, value: str, read: str) -> None:
    assert set_to(monkeypatch, ROOT_PATH=value).root_path == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOT_PATH", "a"),
        ("ROOT_PATH", "//a"),
        ("ROOT_PATH", "/a b"),
        ("ROOT_PATH", "/a?b"),
        ("ROOT_PATH", "/ui"),
        ("ROOT_PATH", "/jobs/a/"),
        ("ROOT_PATH", "https://example.com/a"),
        ("ROOT_PATH", "/" + "a" * 200),
        ("TRUSTED_PROXIES", "proxy.internal"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "*"),
        ("KEEP_ALIVE", "0"),
        ("KEEP_ALIVE", "2h"),
    ],
)
def test_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^ACCEPTED_{name}="):
        set_to(monkeypatch, **{name: value})


def test_proxies_are_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set_to(monkeypatch, TRUSTED_PROXIES="10.0.0.0/8, ::1,192.0.2.7").trusted_proxies
    assert [str(one) for one in found] == ["10.0.0.0/8", "::1/128", "192.0.2.7/32"]


def test_as_json_they_are_the_same_settings() -> None:
    """A worker gives its own to the children that run jobs alone."""
    given = Settings(
        database_url="postgresql://u:p@h/d", egress_allow="127.0.0.0/8,example.com", smtp_url="smtp://u:p@h:587",
        allowed_hosts="a.example,10.0.0.0/8", trusted_proxies="10.0.0.0/8", retention="7d", metrics_port="off",
        handlers="a,b", smtp_from_allow="a@example.com,@example.org",
    )  # fmt: skip
    assert Settings(**json.loads(given.model_dump_json())) == given
