"""The page of a report: one file that needs nothing else, light and dark."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

_STYLE = """\
:root { color-scheme: light dark; --paper: #faf9f6; --card: #ffffff; --ink: #1e1e24; --soft: #6a6a75; --line: #dddbd4;
  --one: #2f6fb5; --two: #c2571a; --three: #3a8a4d; --four: #8a5fb0; --five: #a88a1f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16171b; --card: #1f2126; --ink: #e8e6e1; --soft: #9a9aa5; --line: #3a3c44;
    --one: #6db1ff; --two: #ff9a5c; --three: #74cf8b; --four: #c39be6; --five: #e0c04a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 15px; font-weight: 600; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 72ch; }
h1, p, li { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.verdict { font-size: 20px; margin: 24px 0; padding: 16px 20px; background: var(--card);
  border-left: 4px solid var(--one); max-width: none; }
.verdict span { font-size: 15px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.facts div, .curve { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.curve svg { display: block; width: 100%; height: auto; }
.curve text { font-family: inherit !important; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px;
  margin: 0 0 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); font-weight: 400; }
th { color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
.best td { font-weight: 700; }
.small img { display: inline-block; width: 96px; margin: 0 4px 0 0; }
code { font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, monospace; }
summary { cursor: pointer; font-size: 20px; font-weight: 600; margin: 40px 0 12px; }
"""
_HEAD = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
)


def page(title: str, parts: Sequence[str], refresh: int | None) -> str:
    """A whole page of HTML parts.  refresh: seconds after which it loads itself again."""
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">\n'
    head = f"{_HEAD}{again}<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n"
    return head + "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"


def element(name: str, said: Any, kind: str = "") -> str:
    """An element with a text in it.  kind: its class."""
    return inside(name, html.escape(str(said)), kind)


def inside(name: str, parts: str, kind: str = "") -> str:
    """An element with HTML in it."""
    opened = f'{name} class="{kind}"' if kind else name
    return f"<{opened}>{parts}</{name}>"


def picture(uri: str, shows: str) -> str:
    """A picture, and what it shows."""
    return f'<img src="{uri}" alt="{html.escape(shows)}">'


def table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table with a class and HTML cells for each row."""
    head = inside("tr", "".join(element("th", name) for name in names))
    body = [inside("tr", "".join(cells), kind) for kind, cells in rows]
    return inside("div", inside("table", "\n".join([head, *body])), "wide")


def folded(heading: str, parts: str) -> str:
    """What is seen when its heading is pressed."""
    return inside("details", element("summary", heading) + parts)
