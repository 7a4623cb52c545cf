"""The limits at the door, through real processes: `accepted keys quota`."""

import json
import sys
from typing import Any
from uuid import uuid4

from tests.acceptance.client import check_problem
from tests.acceptance.conftest import ALL_OF, Running, run_to_end
from tests.support.waiting import until


async def test_a_quota_set_at_a_terminal(trio: Running, client: Any) -> None:
    tenant = f"tenant-{uuid4().hex[:8]}"
    commands = [
        ["keys", "create", "--tenant", tenant, "--name", "n", "--scopes", "jobs:write"],
        ["keys", "quota", "--tenant", tenant],
        ["keys", "quota", "--tenant", tenant, "--jobs", "3", "--per", "3600"],
    ]
    done = await run_to_end([sys.executable, "-c", ALL_OF, json.dumps(commands)], trio.env)
    assert done.code == 0, done
    key, *said = done.out.splitlines()
    assert said == ["no quota", "3 jobs in 3600 s, 3 left"]
    limited = trio.client(key)

    async def noticed() -> bool:
        return "ratelimit" in (await limited.post({"type": "noop"})).headers

    await until(noticed, 10, "the door to notice")
    answers = [await limited.post({"type": "noop"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert check_problem(answers[-1])["type"] == "/problems/quota-exceeded"
    assert answers[-1].headers["ratelimit-policy"] == '"jobs";q=3;w=3600'
