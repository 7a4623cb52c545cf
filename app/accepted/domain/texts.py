"""Texts of other people's, made fit for the ledger and for readers."""


def storable(text: str, most: int) -> str:
    """The first `most` characters of `text`, without what PostgreSQL cannot hold: NUL, and halves of pairs."""
    return text[:most].encode(errors="replace").decode().replace("\0", "�")
