"""People at the pages, without scripts: one who may do anything in a tenant, and one who only reads."""

import pytest

from tests.support.clients.form_browser import FormBrowser, signed_in
from tests.support.service.http_app import HttpApp


@pytest.fixture
async def admin(app: HttpApp) -> FormBrowser:
    return await signed_in(app, "jobs:read", "jobs:write", "admin")


@pytest.fixture
async def reader(app: HttpApp) -> FormBrowser:
    return await signed_in(app, "jobs:read")
