"""The templates, compiled when the first page is asked for: an API process that shows none does not load Jinja2."""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accepted.dashboard import texts
from accepted.dashboard.hiding import HIDDEN
from accepted.domain.ids import link

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
STATIC = _HERE / "static"

FILTERS = (
    texts.exact, texts.relative, texts.clock, texts.lasting, texts.number, texts.pretty, texts.as_json, texts.moment,
    texts.told,
)  # fmt: skip
"""Of `texts`, by their names."""


def render(template: str, **values: Any) -> str:
    """The page. Everything is escaped but what a macro of ours has made."""
    return environment().get_template(template).render(**values)


@cache
def environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"url": link, "static": static, "HIDDEN": HIDDEN}
    for filter in FILTERS:
        made.filters[filter.__name__] = filter
    return made


def static(name: str) -> str:
    """The path of a static file. It changes with its content, so it can be cached for long."""
    return link(f"/ui/static/{name}?v={_version(name)}")


def content(name: str) -> bytes | None:
    """A static file; None if there is no such file."""
    return _files().get(name)


@cache
def _files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in STATIC.iterdir() if path.is_file()}


@cache
def _version(name: str) -> str:
    return hashlib.blake2b(content(name) or b"", digest_size=6).hexdigest()
