"""The built-in job types, one file each. This package is the default of ACCEPTED_HANDLERS."""

from workers.handlers.email_send import email_send
from workers.handlers.http_request import http_request
from workers.handlers.image_thumbnail import image_thumbnail
from workers.handlers.noop import noop
from workers.handlers.sleep import sleep

__all__ = ["email_send", "http_request", "image_thumbnail", "noop", "sleep"]
