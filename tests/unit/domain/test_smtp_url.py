"""ACCEPTED_SMTP_URL: its forms; errors show no part of a wrong one."""

import pytest

from accepted.domain.network.smtp import SmtpServer


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
