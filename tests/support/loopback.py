"""TLS for HTTP clients that only reach this machine."""

import ssl

TRUSTS_NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Without it httpx reads the certificates of all authorities for each client, which costs as much as ten requests."""
