"""Build HTML in which all text is escaped."""

from __future__ import annotations

from html import escape

VOID = ("br", "img", "meta", "path")  # elements without content


class Html(str):
    """Text that is HTML already. It is not escaped again."""


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """Return an element. Escape its attributes and each child that is not Html. Leave out children that are None.

    attributes: class_ stands for class, and a_b for a-b. True is written as the name alone, None is left out.
    """
    written = ""
    for key, value in attributes.items():
        if value is not None:
            written += f" {key.rstrip('_').replace('_', '-')}"
            written += "" if value is True else f'="{escape(str(value))}"'
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Html:
    """Return the children one after another. Escape each that is not Html."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def table(header: list[str], rows: list[list[str | Html]], class_: str | None = None) -> Html:
    """Return a table in a box that scrolls sideways by itself where the table is wider than the page."""
    head = tag("tr", *(tag("th", text, scope="col") for text in header))
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", text) for text in rest)) for first, *rest in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_=f"wide {class_ or ''}".strip())
