"""A browser without scripts, over HTTP: it follows links, and sends the forms of the page that it shows."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx

Attributes = dict[str, str | None]

APART = {"p", "li", "td", "th", "div", "dt", "dd", "h1", "h2"}
"""Elements whose text is no part of the word before."""


@dataclass
class ShownForm:
    """`buttons` are by their text: what each sends, and where to, if not to `action`."""

    action: str
    fields: dict[str, list[str]] = field(default_factory=dict)
    buttons: dict[str, tuple[dict[str, str], str]] = field(default_factory=dict)


@dataclass
class ShownPage:
    """What somebody reads. `said` is the answer to the last act; `items` are those of lists, with their links."""

    text: str = ""
    said: str = ""
    ids: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    items: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    forms: list[ShownForm] = field(default_factory=list)


class PlainBrowser:
    """Somebody at the pages of `url`, who needs no key."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, follow_redirects=True)
        self.page = ShownPage()
        self.path = ""

    async def look(self, path: str) -> ShownPage:
        self.path = path
        return self._show(await self._http.get(path))

    async def press(self, name: str, **typed: str) -> ShownPage:
        """A button, or else a link, by its text; `typed` are fields of the button's form by their names."""
        form = next((one for one in self.page.forms if name in one.buttons), None)
        if form is None:
            assert name in self.page.links, f"no button or link {name!r}: {self.page.text}"
            return await self.look(self.page.links[name])
        own, action = form.buttons[name]
        assert typed.keys() <= form.fields.keys(), form
        answer = await self._http.post(action or form.action, data={**form.fields, **typed, **own})
        return self._show(answer)

    def _show(self, answer: httpx.Response) -> ShownPage:
        assert answer.status_code == 200, f"{answer.request.method} {answer.url}: {answer.text}"
        self.page = read_page(answer.text)
        return self.page


def read_page(html: str) -> ShownPage:
    reader = _Reader()
    reader.feed(html)
    reader.page.text = reader.words()
    return reader.page


class _Reader(HTMLParser):
    """Forms, links and items of lists are not nested in those of their kind."""

    def __init__(self) -> None:
        super().__init__()
        self.page = ShownPage()
        self._words: list[str] = []
        self._began: dict[str, tuple[int, Attributes]] = {}
        self._item_links: dict[str, str] = {}
        self._select = ""
        self._form: ShownForm | None = None

    def words(self, since: int = 0) -> str:
        return " ".join("".join(self._words[since:]).split())

    def handle_data(self, data: str) -> None:
        self._words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._began[tag] = len(self._words), given
        self._words.append(" " if tag in APART else "")
        self.page.ids.add(given.get("id") or "")
        if tag == "form":
            self._form = ShownForm(given["action"] or "")
            if given.get("method") == "post":
                self.page.forms.append(self._form)
        elif tag == "li":
            self._item_links = {}
        elif tag == "select":
            self._select = given.get("name") or ""
        elif tag == "input" and (given.get("type") != "checkbox" or "checked" in given):
            self._add_field(given.get("name"), given.get("value") or "")

    def handle_endtag(self, tag: str) -> None:
        since, given = self._began.get(tag, (0, {}))
        text = self.words(since)
        if tag == "a" and given.get("href"):
            self.page.links[text] = self._item_links[text] = given["href"] or ""
        elif tag == "li":
            self.page.items.append((text, self._item_links))
        elif tag == "p" and given.get("role") == "status" and "hidden" not in given:
            self.page.said = text
        elif self._form is not None:
            self._end_of_field(self._form, tag, given, text, "".join(self._words[since:]))

    def _end_of_field(self, form: ShownForm, tag: str, given: Attributes, text: str, typed: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._add_field(given.get("name"), typed.removeprefix("\n"))
        elif tag == "option" and ("selected" in given or self._select not in form.fields):
            form.fields[self._select] = [given.get("value") or text]
        elif tag == "button":
            own = {str(given["name"]): given.get("value") or ""} if given.get("name") else {}
            form.buttons[text] = own, given.get("formaction") or ""

    def _add_field(self, name: str | None, value: str) -> None:
        if name and self._form is not None:
            self._form.fields.setdefault(name, []).append(value)
