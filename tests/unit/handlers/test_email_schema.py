"""The payload of `email.send`: nothing that a client writes becomes a header, a recipient or a command of its own.

The JSON Schema and the model are held to the same cases: the API checks with the one, the worker with the other.
"""

from email import message_from_bytes, policy
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from accepted_worker.handlers.email import Email, address_of, compose

SCHEMA = jsonschema_rs.validator_for(Email.model_json_schema(), validate_formats=True)
PLAIN: dict[str, Any] = {"to": ["a@b.example"], "subject": "s", "text": "t"}
FILE = {"name": "f", "content": "aGk="}

GOOD: list[dict[str, Any]] = [
    PLAIN,
    {"to": ["a@b.example"], "subject": "", "html": ""},
    PLAIN | {"from": "Jane <j@b.example>", "reply_to": "r@b.example", "cc": [], "bcc": ["x+y=z@b-c.example"]},
    PLAIN | {"to": ["Müller, Jörg (Verkauf) <j.m@b.example>", "'q' <o'neil@localhost>"]},
    PLAIN | {"to": ["a@b.example"] * 100, "subject": "Grüße: 50 % = ½?", "text": "\r\n.\r\n"},
    PLAIN | {"headers": {"X-A": "é\U0001f600", "x-b": "", "List-Unsubscribe": "<mailto:u@b.example>"}},
    PLAIN | {"headers": {"In-Reply-To": "<a@b>", "References": "<a@b>", "Auto-Submitted": "auto-generated"}},
    PLAIN | {"html": None, "from": None, "reply_to": None},
    PLAIN | {"text": None, "html": "<p>t"},
    PLAIN | {"attachments": [FILE, FILE | {"content": "", "content_type": "image/svg+xml"}]},
]

BREAKS = ["\r", "\n", "\r\n", "\0", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x7f", "\x85", "\u2028", "\u2029"]
HIDDEN = "=?utf-8?q?a=0D=0ABcc=3A_x=40y.example?="
INJECTED = [f"a{line}Bcc: x@y.example" for line in BREAKS] + [HIDDEN, f"a {HIDDEN} b"]
BAD_ADDRESSES = [
    *("", "a", "@b.example", "a@", "a@@b.example", "a b@c.example", "a@b..example", ".a@b.example", "a..b@c.example"),
    *("a@-b.example", "a@b.example,c@d.example", "a@b.example>", "<a@b.example>", "a@[127.0.0.1]", '"a b"@c.example'),
    *("é@b.example", "a@é.example", "a@b.example\n", "a@b.example SIZE=1", "J <a@b.example> <c@d.example>"),
    *("x" * 460 + "@b.example", 'J "x" <a@b.example>', "J<a@b.example>", 1, None, ["a@b.example"]),
]
BAD: list[Any] = [
    {},
    [],
    {"to": ["a@b.example"], "subject": "s"},
    {"to": ["a@b.example"], "text": "t"},
    PLAIN | {"text": None},
    {"to": ["a@b.example"], "subject": "s", "text": None, "html": None},
    {"to": ["a@b.example"], "subject": "s", "html": None},
    {"to": [], "subject": "s", "text": "t"},
    PLAIN | {"to": "a@b.example"},
    PLAIN | {"to": ["a@b.example"] * 101},
    PLAIN | {"unknown": 1},
    PLAIN | {"sender": "a@b.example"},
    *(PLAIN | {"to": [address]} for address in BAD_ADDRESSES),
    *(PLAIN | {"from": address} for address in BAD_ADDRESSES if address is not None),
    *(PLAIN | {"subject": text} for text in [*INJECTED, "x" * 901, 1, None]),
    *(PLAIN | {"to": [f"{text} <a@b.example>"]} for text in INJECTED),
    *(PLAIN | {"headers": {"X-A": text}} for text in [*INJECTED, "x" * 901, 1, None]),
    *(PLAIN | {"headers": {f"X-{text}": "v"}} for text in [*INJECTED, "A:", "A B", "", "é", "x" * 61]),
    *(
        PLAIN | {"headers": {name: "v"}}
        for name in ("Bcc", "bcc", "To", "From", "Sender", "Subject", "Date", "Message-ID", "Return-Path", "Received")
    ),
    *(PLAIN | {"headers": {name: "v"}} for name in ("Content-Type", "MIME-Version", "DKIM-Signature", "List-Post", "")),
    PLAIN | {"headers": {f"X-{n}": "v" for n in range(51)}},
    *(PLAIN | {"attachments": [FILE | {"name": text}]} for text in [*INJECTED, "", "x" * 201]),
    *(PLAIN | {"attachments": [FILE | {"content": text}]} for text in ("a", "aGk", "aGk=\n", "aG k=", "=aGk", "aGk-")),
    *(
        PLAIN | {"attachments": [FILE | {"content_type": text}]}
        for text in (
            "",
            "text",
            "text/",
            "multipart/mixed",
            "message/rfc822",
            "text/plain; charset=x",
            "text/plain\r\n",
        )
    ),
    PLAIN | {"attachments": [FILE] * 51},
]


def fits(payload: Any) -> bool:
    try:
        Email.model_validate(payload)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("payload", GOOD, ids=lambda value: str(value)[:60])
def test_taken(payload: dict[str, Any]) -> None:
    assert SCHEMA.is_valid(payload)
    compose(Email.model_validate(payload), address_of("f@b.example"), "id@b.example")


@pytest.mark.parametrize("payload", BAD, ids=lambda value: ascii(value)[:80])
def test_refused_at_the_door_and_again_in_the_worker(payload: Any) -> None:
    assert not SCHEMA.is_valid(payload)
    assert not fits(payload)


TEXTS = st.text(max_size=60)


@given(subject=TEXTS, name=TEXTS, value=TEXTS, file=TEXTS, text=TEXTS)
def test_whatever_gets_through_makes_no_header_of_its_own(
    subject: str, name: str, value: str, file: str, text: str
) -> None:
    payload = PLAIN | {
        "to": [f"{name} <a@b.example>"],
        "subject": subject,
        "text": text,
        "headers": {"X-A": value},
        "attachments": [FILE | {"name": file}],
    }
    if not SCHEMA.is_valid(payload):
        return
    raw = compose(Email.model_validate(payload), address_of("f@b.example"), "id@b.example")
    message = message_from_bytes(raw, policy=policy.default)
    expected = ["From", "To", "Subject", "Date", "Message-ID", "X-A", "MIME-Version", "Content-Type"]
    assert sorted(message.keys()) == sorted(expected)
    assert [each.addr_spec for each in message["To"].addresses] == ["a@b.example"]
    raw.decode("ascii")
