"""What errors say: the sentence is read on a page that shows its first three lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]
READ = 120  # characters that the page shows of a message
NAME, NUMBER = 20, 6  # characters of what is put into it: first mostly a file's name, then mostly numbers


def messages() -> dict[str, str]:
    """The texts of errors of nodes by place, with as many x as are likely for what is put into them.

    Those of training, in scedit_core/fitting, are shown whole: by a terminal or by the training node's panel.
    """
    found = {}
    for room in ("nodes", "scedit_core"):
        for path in sorted((PACK / room).rglob("*.py")):
            if "fitting" in path.parts:
                continue
            for each in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(each, ast.Raise) and isinstance(each.exc, ast.Call) and each.exc.args:
                    if getattr(each.exc.func, "id", "") in ("RuntimeError", "TrainingError"):
                        continue  # a fault of the pack, or shown whole by the panel of a training
                    text = said(each.exc.args[0])
                    if "expected" in text:
                        found[f"{path.relative_to(PACK)}:{each.lineno}"] = text
    return found


def said(node: ast.expr) -> str:
    """A string of the source as it may be shown."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    first = not isinstance(parts[0], ast.Constant)
    texts = (part.value if isinstance(part, ast.Constant) else "x" * NUMBER for part in parts[first:])
    return "x" * NAME * first + "".join(texts)


def test_what_to_do_is_within_what_the_page_shows():
    found = messages()
    assert len(found) > 60
    for place, text in found.items():
        sentence = text.split("\n")[0]
        if "; " in sentence:
            first = re.split(r",| \(| so ", sentence.partition("; ")[2])[0]  # the first thing to do
            assert sentence.index("; ") + len("; ") + len(first) <= READ, f"{place}: {text}"
        assert re.search(r"; |xxx$|, which ", sentence), f"{place}: says nothing of what to do: {text}"


def test_a_command_stands_on_a_line_of_its_own():
    for place, text in messages().items():
        for line in text.split("\n"):
            if "-m pip" in line:
                assert re.match(r'(python|"x+") -m pip', line), f"{place}: {text}"
