"""The built-in job types. This package is the default of ACCEPTED_HANDLERS.

`accepted_worker.handlers.sleep` is not among them. A type whose library is an extra that is not installed is not served
by this worker; another worker may serve it.
"""

from accepted import extras
from accepted_worker.handlers.http_request import http_request
from accepted_worker.handlers.noop import noop

__all__ = ["http_request", "noop"]

EXTRAS = {"email.send": "email", "image.thumbnail": "images"}
"""The built-in types that need an extra."""

if extras.installed("email"):
    from accepted_worker.handlers.email import email_send

    __all__ += ["email_send"]

if extras.installed("images"):
    from accepted_worker.handlers.image_thumbnail import image_thumbnail

    __all__ += ["image_thumbnail"]
