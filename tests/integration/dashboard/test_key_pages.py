"""Keys over HTTP: made, listed in pages, shown once, revoked."""

import re

from accepted.services import keys
from tests.support.clients.form_browser import FormBrowser
from tests.support.service.http_app import HttpApp


async def test_a_key_is_made_by_a_key_that_can_as_much(app: HttpApp) -> None:
    admin, other = await app.client("t", "admin", "jobs:read"), await app.client("other", "admin")
    beyond = await admin.http.post("/keys", json={"name": "x", "scopes": ["jobs:read", "operator"]})
    assert (beyond.status_code, "lacks the scope operator" in beyond.json()["detail"]) == (403, True)
    for wrong in ({"name": "", "scopes": ["admin"]}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["root"]}):
        assert (await admin.http.post("/keys", json=wrong)).status_code == 422
    answer = await admin.http.post("/keys", json={"name": "CI", "scopes": ["jobs:read", "queues:admin"]})
    made = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    listed = (await admin.get("/keys")).json()["items"]
    assert [one["name"] for one in listed] == ["tests", "CI"]
    assert "key" not in listed[1]
    assert made["key"] not in (await admin.get("/keys")).text

    ci = {"authorization": f"Bearer {made['key']}"}
    assert (await admin.http.get("/jobs", headers=ci)).status_code == 200
    assert (await admin.http.get("/keys", headers=ci)).status_code == 403
    path = f"/keys/{made['id']}/revoke"
    assert (await other.http.post(path)).status_code == 404
    revoked = [await admin.http.post(path) for _ in range(2)]
    assert [answer.status_code for answer in revoked] == [200, 200]
    assert revoked[0].json() == revoked[1].json()
    assert (await admin.http.get("/jobs", headers=ci)).status_code == 401


async def test_keys_are_listed_in_pages(app: HttpApp, admin: FormBrowser) -> None:
    made = [str((await keys.create(app.engine, "t", f"key {n}", ["jobs:read"]))[0]) for n in range(52)]
    await keys.create(app.engine, "other", "none of them", ["jobs:read"])
    client = await app.client("t", "admin")
    first = await client.get("/keys?limit=30")
    assert first.links["next"]["url"] == f"/keys?limit=30&cursor={first.json()['next']}"
    rest = (await client.get(first.links["next"]["url"])).json()
    listed = [one["id"] for one in first.json()["items"] + rest["items"]]
    assert (rest["next"], [one for one in listed if one in made], len(listed)) == (None, made, 54)
    for wrong in ("limit=0", "limit=201", "cursor=x", "name=x"):
        assert (await client.http.get(f"/keys?{wrong}")).status_code == 422
    more = re.search(r'href="(/ui/keys\?cursor=[^"]+)"', await admin.text("/ui/keys"))
    assert more
    assert 'id="key-' + made[-1] in await admin.text(more[1])
