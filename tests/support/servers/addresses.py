"""Where the servers of a test are: those of the environment in the place of ours, and a virtual host of its own."""

import os
from dataclasses import dataclass

import pytest

EXTERNAL_DATABASE = os.environ.get("TEST_DATABASE_URL")
EXTERNAL_BROKER = os.environ.get("TEST_AMQP_URL")

BROKERS = ("rabbitmq", pytest.param("postgres", marks=pytest.mark.slow))
"""For long tests of what both have in common: `make faults` runs them on both, `make test` on RabbitMQ."""


@dataclass(frozen=True)
class VirtualHost:
    name: str
    url: str
