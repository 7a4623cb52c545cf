"""Which values of a payload pages hide, by the annotations of its schema."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from accepted.dashboard.hiding import HIDDEN, Hiding, NothingToKeep
from accepted.dashboard.schema_form import fields_of

SECRET = {"type": "string", "writeOnly": True}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


DEFINED = {"$ref": "#/$defs/key", "$defs": {"key": SECRET}}

WHERE: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "a property": (of(key=SECRET), {"key": "s", "n": 1}, {"key": HIDDEN, "n": 1}),
    "a format": (of(key={"format": "password"}), {"key": "s"}, {"key": HIDDEN}),
    "an object": (of(key={"writeOnly": True}), {"key": {"a": ["s"]}}, {"key": HIDDEN}),
    "the whole": ({"writeOnly": True}, {"key": "s"}, HIDDEN),
    "the whole by reference": (DEFINED, {"key": "s"}, HIDDEN),
    "deep": (of(a=of(b=of(key=SECRET))), {"a": {"b": {"key": "s", "c": 2}}}, {"a": {"b": {"key": HIDDEN, "c": 2}}}),
    "a list": (of(keys={"items": SECRET}), {"keys": ["s", "t"]}, {"keys": [HIDDEN, HIDDEN]}),
    "a tuple": (of(pair={"prefixItems": [{}, SECRET]}), {"pair": [1, "s", 2]}, {"pair": [1, HIDDEN, 2]}),
    "the rest of a tuple": (of(p={"prefixItems": [{}], "items": SECRET}), {"p": [1, "s"]}, {"p": [1, HIDDEN]}),
    "a tuple of draft 7": (of(p={"items": [SECRET], "additionalItems": {}}), {"p": ["s", 1]}, {"p": [HIDDEN, 1]}),
    "objects in a list": (of(a={"items": of(key=SECRET)}), {"a": [{"key": "s"}, {}]}, {"a": [{"key": HIDDEN}, {}]}),
    "other members": ({**of(n={}), "additionalProperties": SECRET}, {"n": 1, "x": "s"}, {"n": 1, "x": HIDDEN}),
    "a pattern": ({"patternProperties": {"^x": SECRET}}, {"x": "s"}, {"x": HIDDEN}),
    "a reference": ({**of(key={"$ref": "#/$defs/key"}), "$defs": {"key": SECRET}}, {"key": "s"}, {"key": HIDDEN}),
    "itself": (of(key=SECRET, a={"$ref": "#"}), {"a": {"a": {"key": "s"}}}, {"a": {"a": {"key": HIDDEN}}}),
    "or null": (of(key={"anyOf": [SECRET, {"type": "null"}]}), {"key": "s"}, {"key": HIDDEN}),
    "an alternative": ({"oneOf": [of(key=SECRET), of(n={})]}, {"key": "s", "n": 1}, {"key": HIDDEN, "n": 1}),
    "a condition": ({"if": {}, "then": of(key=SECRET)}, {"key": "s"}, {"key": HIDDEN}),
    "a dependency": ({"dependentSchemas": {"n": of(key=SECRET)}}, {"key": "s", "n": 1}, {"key": HIDDEN, "n": 1}),
    "a name that is a keyword": (of(format={"enum": ["password"]}, items=SECRET), {"format": "password", "items": "s"},
                                 {"format": "password", "items": HIDDEN}),
    "nothing": (of(key={"type": "string", "default": SECRET}), {"key": "s"}, {"key": "s"}),
    "a reference to itself": ({"$ref": "#"}, {"key": "s"}, {"key": "s"}),
    "a reference to nothing": ({"$ref": "#/$defs/none/0"}, {"key": "s"}, {"key": "s"}),
}  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
def test_what_is_hidden(where: str) -> None:
    schema, payload, shown = WHERE[where]
    hiding = Hiding(schema)
    masked = hiding.masked(json.dumps(payload).encode())
    assert json.loads(masked) == shown
    assert json.loads(hiding.restored(masked, json.dumps(payload).encode())) == payload


class Login(BaseModel):
    user: str
    password: SecretStr
    token: SecretStr | None = None


class Call(BaseModel):
    logins: dict[str, Login]


def test_what_pydantic_calls_a_secret_is_hidden() -> None:
    masked = Hiding(Call.model_json_schema()).masked(b'{"logins": {"a": {"user": "u", "password": "p", "token": "t"}}}')
    assert json.loads(masked) == {"logins": {"a": {"user": "u", "password": HIDDEN, "token": HIDDEN}}}
    fields = fields_of(Login.model_json_schema())
    assert fields is not None
    assert [one.hidden for one in fields] == [False, True, True]


def test_numbers_and_strings_around_it_stay_as_they_are() -> None:
    payload = b'{"key":"s","big":100000000000000000000.50,"text":"\\u00e9","e":1E2}'
    assert Hiding(of(key=SECRET)).masked(payload) == payload.replace(b'"s"', f'"{HIDDEN}"'.encode())


CHANGED: list[tuple[Any, Any, Any]] = [
    ({"key": HIDDEN, "n": 2}, {"key": "s", "n": 1}, {"key": "s", "n": 2}),
    ({"key": "new", "n": 1}, {"key": "s", "n": 1}, {"key": "new", "n": 1}),
    ({"n": 1}, {"key": "s", "n": 1}, {"n": 1}),
    ({"keys": [HIDDEN, "new"]}, {"keys": ["s", "t"]}, {"keys": ["s", "new"]}),
    ({"n": HIDDEN}, {"n": 1}, {"n": HIDDEN}),
    ({"keys": [HIDDEN]}, {"keys": ["s", "t"]}, "/keys/0"),
    ({"keys": [HIDDEN]}, {}, "/keys/0"),
    ({"key": HIDDEN}, {"n": 1}, "/key"),
]


@pytest.mark.parametrize(("typed", "stored", "expected"), CHANGED)
def test_a_hidden_value_is_kept_if_it_is_not_changed(typed: Any, stored: Any, expected: Any) -> None:
    """Never in the place of another one: a path says where a value has to be written."""
    hiding = Hiding(of(key=SECRET, keys={"items": SECRET}))
    sent = json.dumps(typed).encode(), json.dumps(stored).encode()
    if isinstance(expected, str):
        with pytest.raises(NothingToKeep, match=expected):
            hiding.restored(*sent)
    else:
        assert json.loads(hiding.restored(*sent)) == expected
