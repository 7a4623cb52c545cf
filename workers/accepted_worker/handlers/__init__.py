"""The built-in job types, one file each. This package is the default of ACCEPTED_HANDLERS."""

from accepted_worker.handlers.email_send import email_send
from accepted_worker.handlers.http_request import http_request
from accepted_worker.handlers.image_thumbnail import image_thumbnail
from accepted_worker.handlers.noop import noop
from accepted_worker.handlers.sleep import sleep

__all__ = ["email_send", "http_request", "image_thumbnail", "noop", "sleep"]
