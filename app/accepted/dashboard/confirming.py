"""A page that asks before an act that nothing undoes. It says what, and how many."""

from starlette.responses import Response

from accepted.dashboard.visit import Visit


def is_sure(visit: Visit) -> bool:
    """Whether this form is that of the page that asks."""
    return visit.field("sure") == "yes"


def ask(visit: Visit, title: str, sentence: str, button: str, back: str, **fields: str) -> Response:
    """Sends the same form again, with `fields`, once the person is sure. `back` is where one goes who is not."""
    action = visit.request.scope["path"].removeprefix(visit.request.scope["root_path"])
    return visit.show("confirm.html", title, sentence=sentence, button=button, back=back, fields=fields, action=action)
