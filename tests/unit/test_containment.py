"""What is logged about a row that cannot be used."""

from structlog.testing import capture_logs

from accepted.containment import RowErrors


def test_the_line_about_a_row_has_the_place_and_no_secret() -> None:
    """As every line of the log (docs/operations.md): an error can quote a URL, and a row's values in further lines."""
    with capture_logs() as lines, RowErrors("rows").contained("1"):
        raise ValueError("cannot reach amqp://user:geheim@host\nDETAIL: value 42")
    assert [(one["event"], one["loop"], one["row"]) for one in lines] == [("row_unusable", "rows", "1")]
    assert lines[0]["error"].startswith("ValueError: cannot reach amqp://***@host (test_containment.py:")
