"""`python -m workers`: a worker for every queue; `accepted worker` takes options."""

from app.settings import load
from workers.processes import worker

if __name__ == "__main__":
    worker(load(), queues=())
