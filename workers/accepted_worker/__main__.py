"""`python -m workers`: a worker for every queue; `accepted worker` takes options."""

from accepted.settings import load
from accepted_worker.processes import worker

if __name__ == "__main__":
    worker(load(), queues=())
