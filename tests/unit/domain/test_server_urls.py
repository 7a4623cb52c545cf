"""The URLs of mail server, ledger and broker: their forms; errors show no part of a wrong one."""

from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.network.servers import AmqpUrl, PostgresUrl, SmtpServer


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example", SmtpServer("mail.example", 587, "starttls")),
        ("smtp://u%40x:p%3A%2F@mail.example:25/", SmtpServer("mail.example", 25, "starttls", "u@x", "p:/")),
        ("smtps://u:p@mail.example", SmtpServer("mail.example", 465, "tls", "u", "p")),
        ("smtp+plain://127.0.0.1:1025", SmtpServer("127.0.0.1", 1025, "none")),
        ("smtp://[::1]:25", SmtpServer("::1", 25, "starttls")),
    ],
)
def test_taken(url: str, server: SmtpServer) -> None:
    assert SmtpServer.parse(url) == server


@pytest.mark.parametrize(
    "url",
    [
        *("", "mail.example", "http://mail.example", "smtp://", "smtp://:25", "smtp://h:99999", "smtp://h:x"),
        *("smtp://hunter2@h", "smtp://h/hunter2", "smtp://h?hunter2", "smtp://h#hunter2", "smtp+plain://u:hunter2@h"),
    ],
)
def test_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        SmtpServer.parse(url)
    assert "hunter2" not in str(refusal.value)


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(SmtpServer.parse("smtp://u:hunter2@h"))


@pytest.mark.parametrize(
    ("url", "hosts", "user", "database"),
    [
        ("postgresql://u:p@h/d", "h:5432", "u", "d"),
        ("postgres://u@[::1]:5433,h/d", "[::1]:5433,h:5432", "u", "d"),
        ("postgresql:///d?host=/run&user=a%2Bb", "/run", "a+b", "d"),
        ("postgresql:///?host=a,b&port=1,2&dbname=x", "a:1,b:2", None, "x"),
        ("postgresql://a%40b:p%2F@h/d%20e", "h:5432", "a@b", "d e"),
        ("postgresql:///d", "", None, "d"),
    ],
)
def test_where_a_postgresql_url_leads(url: str, hosts: str, user: str | None, database: str) -> None:
    found = PostgresUrl.parse(url)
    assert (found.hosts, found.user, found.database) == (hosts, user, database)


def refusal_of(url: str) -> str:
    """Empty if the URL is taken."""
    try:
        PostgresUrl.parse(url)
    except ValueError as error:
        return str(error)
    return ""


UNDERSTOOD = {
    "sslmode": "require",
    "connect_timeout": "5",
    "application_name": "shop",
    "options": "-c%20work_mem%3D8MB",
    "target_session_attrs": "read-write",
    "keepalives": "1",
    "keepalives_idle": "60",
    "tcp_user_timeout": "5000",
    "channel_binding": "prefer",
    "gssencmode": "disable",
    "client_encoding": "UTF8",
    "sslnegotiation": "direct",
    "ssl_min_protocol_version": "TLSv1.3",
    "fallback_application_name": "x",
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_parameter_of_libpq_that_is_understood(name: str) -> None:
    """asyncpg would send a parameter that it does not know to the server, which refuses the connection."""
    found = PostgresUrl.parse(f"postgresql://u:p@h/d?{name}={UNDERSTOOD[name]}")
    sent = dict(parse_qsl(urlsplit(found.for_driver).query))
    assert sent.keys() <= DRIVERS_OWN
    assert {*sent, *found.texts, *found.numbers} <= {name}


DRIVERS_OWN = {
    "host", "port", "dbname", "user", "password", "passfile", "service", "sslmode", "sslcert", "sslkey", "sslrootcert",
    "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    "target_session_attrs", "krbsrvname", "gsslib",
}  # fmt: skip
LIBPQ = {
    *DRIVERS_OWN, *UNDERSTOOD, "hostaddr", "keepalives_interval", "keepalives_count", "requirepeer", "require_auth",
    "load_balance_hosts", "replication", "sslcompression", "sslcertmode", "sslcrldir", "sslsni", "sslkeylogfile",
    "servicefile", "gssdelegation", "min_protocol_version", "max_protocol_version", "scram_client_key",
    "scram_server_key", "oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LIBPQ))
def test_no_parameter_of_libpq_is_unknown(name: str) -> None:
    refused = refusal_of(f"postgresql://h/d?{name}=1")
    assert "does not know" not in refused
    assert name in refused or not refused


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.sampled_from(sorted(LIBPQ)))
def test_any_value_is_read_or_refused_without_being_shown(value: str, name: str) -> None:
    refused = refusal_of(f"postgresql://u:p@h/d?{name}={quote('hunter2' + value)}")
    assert "hunter2" not in refused
    assert len(refused.splitlines()) <= 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://h/d?sslmod=require", 'did you mean "sslmode"?'),
        ("postgresql://h/d?sslmode=on", "verify-full"),
        ("postgresql://h/d?connect_timeout=soon", "whole number"),
        ("postgresql://h/d?statement_timeout=5s", "options=-c name=value"),
        ("postgresql://h/d?target_session_attrs=standby", "read-write"),
        ("postgresql://h/d?channel_binding=require", "prefer"),
        ("postgresql://h/d?hostaddr=127.0.0.1", "hostaddr"),
        ("postgresql://h/d?sslrootcert=system", "system"),
        ("postgresql://h/d?port=99999", "65535"),
        ("postgresql://h/d?hunter2", "name=value"),
        ("postgresql://h:99999/d", "invalid port"),
        ("postgresql://u:hunter2@w@h/d", "percent-encoded"),
        ("postgresql://u:1/hunter2@h/d", "percent-encoded"),
        ("postgresql://u:1?hunter2=1@h/d", "percent-encoded"),
        ("postgresql://u:1#hunter2@h/d", "percent-encoded"),
    ],
)
def test_a_postgresql_url_that_could_never_connect(url: str, says: str) -> None:
    assert says in refusal_of(url)
    assert "hunter2" not in refusal_of(url)


def test_a_node_of_the_broker() -> None:
    node = AmqpUrl.parse("amqps://u:hunter2@h/%2Fjobs?heartbeat=20")
    assert str(node) == "the broker at h:5671, virtual host '/jobs', user 'u'"
    assert node.heartbeat
    with pytest.raises(ValueError, match='did you mean "heartbeat"'):
        AmqpUrl.parse("amqp://h/?hearbeat=20")
    with pytest.raises(ValueError, match="percent-encoded") as raised:
        AmqpUrl.parse("amqp://u:hun/ter2@h/")
    assert "hun" not in str(raised.value)
