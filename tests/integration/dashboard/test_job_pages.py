"""What the pages of jobs say after an act, without scripts."""

from tests.support.clients.form_browser import FormBrowser
from tests.support.service.http_app import HttpApp


async def test_an_act_that_is_refused_is_not_shown_as_done(app: HttpApp, admin: FormBrowser) -> None:
    client = await app.client()
    gone, there = [(await client.submit("noop", delay=3600))["id"] for _ in range(2)]
    await client.http.post(f"/jobs/{gone}/cancel")
    for job, said in ((gone, 'refused" role="status">0 jobs are'), (there, 'done" role="status">1 job is')):
        await admin.send("/ui/jobs", "/ui/jobs/act", act="cancel", id=job)
        assert f'<p class="notice {said} cancelled.' in await admin.text("/ui/jobs")
