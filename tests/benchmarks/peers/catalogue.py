"""The rows of the table, by the name that PEERS= takes. Another peer is an entry here and a file in `apps`.

Each is started as its documentation says, with the numbers of processes and slots that it has by default, unless its
file in `apps` says why not.
"""

from tests.benchmarks.peers.ours import Accepted
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.recorded import Recorded

API = "api --port={port}"
UVICORN = "uvicorn --host=127.0.0.1 --port={port} --log-level=warning --no-access-log"


def _pg_boss(title: str, batch: int) -> Recorded:
    return Recorded(
        title,
        uses=("postgres",),
        api="node pg_boss.cjs api {port}",
        worker=f"node pg_boss.cjs worker {batch}",
        share=0.5,
        unfinished="SELECT EXISTS (SELECT FROM pgboss.job WHERE name = 'jobs' AND state IN ('created', 'active'))",
        span="""SELECT count(*), min(started_on), max(completed_on) FROM pgboss.job
            WHERE name = 'jobs' AND state = 'completed'""",
    )


PEERS = {
    "accepted-rabbitmq": Accepted(
        "**Accepted, RabbitMQ, 2 workers x 10 (the default)**",
        uses=("postgres", "rabbitmq"),
        api=API,
        worker="worker",
        workers=2,
    ),
    "accepted-postgres": Accepted(
        "**Accepted, PostgreSQL only, the same**", uses=("postgres",), api=API, worker="worker", workers=2
    ),
    "accepted-rabbitmq-50": Accepted(
        "Accepted, RabbitMQ, one worker x 50",
        uses=("postgres", "rabbitmq"),
        api=API,
        worker="worker --concurrency=50",
    ),
    "accepted-postgres-50": Accepted(
        "Accepted, PostgreSQL only, one worker x 50", uses=("postgres",), api=API, worker="worker --concurrency=50"
    ),
    "dramatiq": Peer(
        "Dramatiq, RabbitMQ + Redis, 2 processes x 8 threads",
        uses=("rabbitmq", "redis"),
        api=f"{UVICORN} dramatiq_app:app",
        worker="dramatiq dramatiq_app --processes=2 --threads=8",
    ),
    "taskiq": Peer(
        "Taskiq, RabbitMQ + Redis, 2 processes",
        uses=("rabbitmq", "redis"),
        api=f"{UVICORN} taskiq_app:app",
        worker="taskiq worker taskiq_app:broker",
    ),
    "celery": Peer(
        "Celery, RabbitMQ + Redis, a process for each core",
        uses=("rabbitmq", "redis"),
        api=f"{UVICORN} celery_app:app",
        worker="celery --app=celery_app:celery worker",
        share=0.5,
    ),
    "saq": Peer(
        "SAQ, Redis, 2 processes x 10",
        uses=("redis",),
        api=f"{UVICORN} saq_app:app",
        worker="saq saq_app.settings --workers=2",
    ),
    "procrastinate": Recorded(
        "Procrastinate, PostgreSQL, 2 workers x 10",
        uses=("postgres",),
        prepare="procrastinate --app=procrastinate_app.procrastinate schema --apply",
        api=f"{UVICORN} procrastinate_app:app",
        worker="procrastinate --app=procrastinate_app.procrastinate worker --concurrency=10",
        workers=2,
        share=0.5,
        unfinished="SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))",
        span="""SELECT count(*) FILTER (WHERE type = 'succeeded'), min(at) FILTER (WHERE type = 'started'),
            max(at) FILTER (WHERE type = 'succeeded') FROM procrastinate_events""",
    ),
    "pg-boss": _pg_boss("pg-boss (Node), PostgreSQL, batches of 200", 200),
    "pg-boss-2000": _pg_boss("pg-boss, batches of 2,000, each with one outcome for all its jobs", 2000),
    "bullmq": Peer(
        "BullMQ (Node), Redis, one worker x 50",
        uses=("redis",),
        api="node bullmq.cjs api {port}",
        worker="node bullmq.cjs worker",
    ),
}
