"""Where settings come from. Apart from `accepted.settings`, which takes longer to load than a page of help to print."""

PREFIX = "ACCEPTED_"
DOT_ENV = ".env"

OF_CLIENTS = ("url", "api_key")
"""What the commands that call the HTTP API read."""
