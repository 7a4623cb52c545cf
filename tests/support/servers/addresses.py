"""Where the servers of a test are: those of the environment in the place of ours, and a virtual host of its own."""

import os
from dataclasses import dataclass

EXTERNAL_DATABASE = os.environ.get("TEST_DATABASE_URL")
EXTERNAL_BROKER = os.environ.get("TEST_AMQP_URL")


@dataclass(frozen=True)
class VirtualHost:
    name: str
    url: str
