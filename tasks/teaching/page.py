"""Write the tutorial as one HTML page that contains all it needs: styles, figures as SVG, formulas as MathML.

Markdown is rendered by markdown-it, formulas by latex2mathml and code by Pygments. The usual way to export a notebook,
nbconvert, would need a Jupyter kernel, and its pages load MathJax from the network.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from latex2mathml import converter
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from . import chapters

STYLE = Path(__file__).with_name("style.css")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def page(paths: Iterable[Path], introduction: str) -> str:
    """Return the page: the introduction, and then each chapter with what its run prints and draws."""
    paths = list(paths)
    title = re.findall(r"^# (.*)$", introduction, re.MULTILINE)[0]
    parts = [_section("start", _rendered(introduction))]
    parts += [_section(path.stem, "".join(_chapter(path))) for path in paths]
    return PAGE.format(title=escape(title), style=STYLE.read_text("utf-8"), body="".join(parts))


def _section(name: str, html: str) -> str:
    return f'<section id="{name}">\n{html}</section>\n'


def _chapter(path: Path) -> Iterator[str]:
    """Return the HTML of a chapter, piece by piece."""
    text, end = path.read_text("utf-8"), 0
    for match, block in zip(chapters.BLOCK.finditer(text), chapters.run(path), strict=True):
        yield _rendered(text[end : match.start()])
        yield _block(block)
        end = match.end()
    yield _rendered(text[end:])


def _block(block: chapters.Block) -> str:
    """Return a block's code, what it printed, and its figure. The code of a figure is folded away."""
    code = f'<div class="code">{highlight(block.code, PythonLexer(), HtmlFormatter(nowrap=False))}</div>\n'
    printed = f'<pre class="printed">{escape(block.printed)}</pre>\n' if block.printed else ""
    if not block.figure:
        return code + printed
    source = f"data:image/svg+xml;base64,{b64encode(block.figure.encode()).decode()}"
    figure = f'<figure><img src="{source}" alt="{escape(block.caption)}">'
    figure += f"<figcaption>{escape(block.caption)}</figcaption></figure>\n"
    return f"<details><summary>code of the figure</summary>\n{code}</details>\n{printed}{figure}"


def _rendered(text: str) -> str:
    """Return Markdown as HTML, with formulas as MathML. A link to a file that is no chapter becomes plain text."""

    def link(match: re.Match[str]) -> str:
        words, target = match.groups()
        if target.startswith("https://"):
            return match[0]
        chapter = chapters.FOLDER / target
        return f"[{words}](#{chapter.stem})" if chapter in chapters.paths() else words

    markdown = MarkdownIt("commonmark").enable("table")
    dollarmath_plugin(markdown, renderer=lambda latex, _: _math(latex))
    markdown.add_render_rule("fence", _fence)
    html = markdown.render(LINK.sub(link, text))
    return html.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")


def _math(latex: str) -> str:
    return converter.convert(latex.strip("`"))


def _fence(_: Any, tokens: Any, index: int, *others: Any) -> str:
    """Return a formula from a block called math, and other blocks as they are."""
    token = tokens[index]
    if token.info == "math":
        return f'<div class="formula">{converter.convert(token.content.strip(), display="block")}</div>\n'
    return f'<pre class="printed">{escape(token.content)}</pre>\n'
