"""Signatures, held against the two libraries that receivers use. Standard Webhooks 1.0.0."""

import base64
import time

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st

from accepted.domain.network.signing import headers, is_secret, new_secret

json_bodies = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=4)
secrets = st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode())
ids = st.uuids().map(str)


@given(ids, json_bodies, secrets)
def test_both_libraries_agree(webhook_id: str, body: dict[str, object], secret: str) -> None:
    import json

    raw = json.dumps(body).encode()
    sent = headers(webhook_id, int(time.time()), raw, [secret])
    assert set(sent) == {"webhook-id", "webhook-timestamp", "webhook-signature"}
    assert standardwebhooks.Webhook(secret).verify(raw, sent) == body
    svix.webhooks.Webhook(secret).verify(raw, sent)


@given(ids, secrets, secrets)
def test_during_a_rotation_either_secret_verifies(webhook_id: str, old: str, new: str) -> None:
    raw = b"{}"
    sent = headers(webhook_id, int(time.time()), raw, [new, old])
    assert len(sent["webhook-signature"].split(" ")) == 2
    for secret in (new, old):
        standardwebhooks.Webhook(secret).verify(raw, sent)
        svix.webhooks.Webhook(secret).verify(raw, sent)


@given(ids, secrets, st.integers(0, 9), st.sampled_from(["body", "webhook-id", "webhook-timestamp"]))
def test_every_change_breaks_the_signature(webhook_id: str, secret: str, number: int, what: str) -> None:
    now = int(time.time())
    raw = b'{"n":1}'
    sent = headers(webhook_id, now, raw, [secret])
    if what == "body":
        raw = b'{"n":2}'
    elif what == "webhook-id":
        sent["webhook-id"] = sent["webhook-id"] + str(number)
    else:
        sent["webhook-timestamp"] = str(now + 1 + number)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(raw, sent)


def test_a_known_answer() -> None:
    """The example of the specification's own test suite."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    sent = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [secret])
    assert sent["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_new_secrets_are_good_and_differ() -> None:
    made = [new_secret() for _ in range(50)]
    assert len(set(made)) == 50
    assert all(is_secret(secret) for secret in made)
    assert {len(base64.b64decode(secret.removeprefix("whsec_"))) for secret in made} == {32}


@given(secrets)
def test_secrets_of_24_to_64_bytes_are_secrets(secret: str) -> None:
    assert is_secret(secret)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec_" + base64.b64encode(b"x" * 23).decode(),
        "whsec_" + base64.b64encode(b"x" * 65).decode(),
        base64.b64encode(b"x" * 32).decode(),
        "whsec_***not base64***aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "whpk_" + base64.b64encode(b"x" * 32).decode(),
        "whsec_ü" + "A" * 40,
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert not is_secret(text)
