"""The built-in job types. This package is the default of ACCEPTED_HANDLERS.

A type whose library is an extra that is not installed is not served by this worker; another worker may serve it.
"""

from accepted import extras
from accepted_worker.handlers.http_request import http_request
from accepted_worker.handlers.noop_and_sleep import noop, sleep

__all__ = ["http_request", "noop", "sleep"]

EXTRAS = {"email.send": "email", "image.thumbnail": "images"}
"""The built-in types that need an extra."""

if extras.installed("email"):
    from accepted_worker.handlers.email import email_send

    __all__ += ["email_send"]

if extras.installed("images"):
    from accepted_worker.handlers.image_thumbnail import image_thumbnail

    __all__ += ["image_thumbnail"]
