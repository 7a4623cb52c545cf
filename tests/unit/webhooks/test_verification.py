"""`accepted.webhooks.verify`, judged by the library of Standard Webhooks: both take, and refuse, the same requests."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from accepted.webhooks import WebhookRefused, verify

secrets = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())
data = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=4)
SECRET = "whsec_" + base64.b64encode(b"a" * 24).decode()
OTHER = "whsec_" + base64.b64encode(b"b" * 24).decode()
BODY = json.dumps({"type": "job.failed", "timestamp": "2026-11-30T12:00:00Z", "data": {"id": "j", "status": "failed"}})


def signed(body: str, secret: str, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_1", at, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


@given(data, secrets)
def test_what_the_library_signs_is_verified(content: dict[str, object], secret: str) -> None:
    body = json.dumps({"type": "job.succeeded", "timestamp": "2026-11-30T12:00:00.5+00:00", "data": content})
    headers = {name.title(): value for name, value in signed(body, secret).items()}
    for raw in (body, body.encode()):
        event = verify(raw, headers, secret)
        assert (event.id, event.type, event.data) == ("msg_1", "job.succeeded", content)
        assert event.timestamp == datetime(2026, 11, 30, 12, 0, 0, 500000, tzinfo=UTC)


@given(secrets, st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "body"]), st.text(max_size=9))
def test_both_refuse_what_was_changed(secret: str, part: str, text: str) -> None:
    sent = {**signed(BODY, secret), "body": BODY}
    sent[part] = text if text.strip() != sent[part] else ""
    body = sent.pop("body")
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - the library lets other errors than its own through
        standardwebhooks.Webhook(secret).verify(body, sent)
    assert theirs
    with pytest.raises(WebhookRefused):
        verify(body, sent, secret)


@pytest.mark.parametrize("seconds", [-290, -310, 0, 290, 310])
def test_both_have_the_same_tolerance(seconds: int) -> None:
    headers = signed(BODY, SECRET, datetime.now(UTC) + timedelta(seconds=seconds))
    try:
        standardwebhooks.Webhook(SECRET).verify(BODY, headers)
    except standardwebhooks.WebhookVerificationError:
        with pytest.raises(WebhookRefused, match="300 s"):
            verify(BODY, headers, SECRET)
        assert verify(BODY, headers, SECRET, tolerance=600)
    else:
        assert verify(BODY, headers, SECRET).job.status == "failed"


def test_while_a_secret_is_rotated_either_is_enough() -> None:
    old, new = signed(BODY, SECRET), signed(BODY, OTHER)
    both = old | {"webhook-signature": f"v1a,x {new['webhook-signature']} {old['webhook-signature']}"}
    for secret in (SECRET, OTHER, [SECRET, OTHER]):
        assert verify(BODY, both, secret).type == "job.failed"
    assert verify(BODY, old, [OTHER, SECRET])
    with pytest.raises(WebhookRefused, match="no signature is by this secret"):
        verify(BODY, old, OTHER)
    with pytest.raises(WebhookRefused):
        verify(BODY, old | {"webhook-signature": old["webhook-signature"].removeprefix("v1,")}, SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "secret", [], [SECRET, ""]])
def test_what_is_no_secret_verifies_nothing(secret: str | list[str]) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        verify(BODY, signed(BODY, SECRET), secret)


@pytest.mark.parametrize("body", ["", "null", "[]", '{"type": "a"}', '{"type": "a", "timestamp": 7, "data": {}}'])
def test_a_signed_body_that_is_no_event_is_refused(body: str) -> None:
    with pytest.raises(WebhookRefused, match="no event"):
        verify(body, signed(body, SECRET, datetime.fromtimestamp(time.time(), UTC)), SECRET)
