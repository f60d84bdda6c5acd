"""Help pages, tooltips and translations against the nodes themselves: nothing missing, nothing stale."""

from __future__ import annotations

import json
import re

import pytest
from conftest import PACK_ROOT
from PIL import Image

DOCS, LOCALES = PACK_ROOT / "web" / "docs", PACK_ROOT / "locales"
ARCHIVED_BYTES = 2_000_000  # help and templates together: the registry's archive stays under 3 MB
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def schemas(pack) -> dict:
    return {name: node.GET_SCHEMA() for name, node in sorted(pack.nodes.items())}


@pytest.fixture(scope="module")
def sentences() -> str:
    """The pack's source, with strings that go over several lines put together."""
    source = "\n".join(
        path.read_text("utf-8") for room in ("nodes", "scedit_core") for path in (PACK_ROOT / room).rglob("*.py")
    )
    return re.sub(r'"\s*\n\s*f?"', "", source)


def test_every_widget_and_socket_has_a_tooltip(schemas):
    for name, schema in schemas.items():
        assert schema.description, name
        for each in (*schema.inputs, *schema.outputs):
            assert each.tooltip, f"{name}: {each.id or each.display_name}"
            assert each.tooltip.endswith("."), f"{name}: {each.tooltip}"


def test_every_node_has_a_page_and_every_page_a_node(schemas):
    assert {path.stem for path in DOCS.glob("*.md")} == set(schemas)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_finds_its_help_in_both_languages(schemas, language):
    """Asked for as <id>/<language>.md first, and for other languages as <id>.md."""
    assert {path.parent.name for path in DOCS.glob(f"*/{language}.md")} == set(schemas)
    for name, schema in schemas.items():
        english = (DOCS / f"{name}.md").read_text("utf-8")
        page = (DOCS / name / f"{language}.md").read_text("utf-8")
        if language == "en":
            assert page == english, f"{name}: copy {name}.md to {name}/en.md"
            continue
        assert re.findall(r"\]\((assets/[^)]+)\)", page) == re.findall(r"\]\((assets/[^)]+)\)", english), name
        for each in schema.inputs:
            assert f"- `{each.id}`（" in page, f"{name}: {each.id}"
        head, inputs = page.split("## 输入")
        assert CHINESE.search(head)
        assert inputs.count("\n- ") > len(schema.inputs) + len(schema.outputs), f"{name}: nothing of what goes wrong"


ENTRY = re.compile(r"^- (?:`([^`]+)`|\*\*([^*]+)\*\*)(?: \(([^)]*)\))?: (.+)$", re.MULTILINE)


def entries(page: str, head: str) -> dict[str, tuple[str, str]]:
    """The list below a heading: (what stands in brackets, text) by name or message."""
    part = page.split(f"## {head}\n")[1].split("\n## ")[0]
    return {name or words: (unit, text) for name, words, unit, text in ENTRY.findall(part)}


def test_pages_tell_every_input_with_its_range_and_every_output(schemas):
    for name, schema in schemas.items():
        page = (DOCS / f"{name}.md").read_text("utf-8")
        told = entries(page, "Inputs")
        assert list(told) == [each.id for each in schema.inputs], name
        for each in schema.inputs:
            where, (unit, text) = f"{name}: {each.id}", told[each.id]
            assert len(text) > 5, where
            if getattr(each, "max", None) is not None:
                assert f"{each.min:g} to {each.max:.15g}" in unit, where
            options = getattr(each, "options", None)
            if options is not None and "a file in" not in unit:
                assert unit.split(", ") == [str(option) for option in options], where
            assert ("optional" in unit) == bool(each.optional), where
        assert list(entries(page, "Outputs")) == [each.display_name for each in schema.outputs], name
        assert entries(page, "What goes wrong"), name


def test_pages_quote_what_the_nodes_say(sentences):
    """A message in the list of what goes wrong is one that the pack has."""
    quoted = 0
    for page in DOCS.glob("*.md"):
        part = page.read_text("utf-8").split("## What goes wrong\n")[1]
        for message in re.findall(r"^- `([^`]+)`: ", part, re.MULTILINE):
            assert message in sentences or in_parts(message, sentences), f"{page.name}: {message}"
            quoted += 1
    assert quoted > 20


def in_parts(message: str, sentences: str) -> bool:
    """Whether a message appears where the source has a name in braces for some of its words."""
    words = message.split(" ")
    pattern = " ".join(rf"(?:{re.escape(word)}|[^\s\"]*\{{[^}}\"]*\}}[^\s\"]*)" for word in words)
    return re.search(pattern, sentences) is not None


def test_pages_show_real_pictures(schemas):
    shown = set()
    for name in schemas:
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (DOCS / f"{name}.md").read_text("utf-8"))
        assert pictures, name
        for picture in pictures:
            with Image.open(DOCS / picture) as image:
                assert 282 <= image.width <= 564, f"{picture}: the page shows 282 pixels"
            shown.add(DOCS / picture)
    assert shown == set((DOCS / "assets").iterdir()), "pictures that no page shows"


def test_every_list_of_released_tuners_has_the_same():
    """The English and the Chinese help: names, families, places, sizes, licences and addresses; the README: names."""

    def told(page: str) -> set[str]:
        table = page.split("|---|---|---|---|---|\n")[1].split("\n## ")[0]
        return set(re.findall(r"https?://[\w./-]+|`[^`]+`|[A-Za-z0-9][A-Za-z0-9_.+-]{2,}", table))

    english, chinese = ((DOCS / "SCEditTunerInfo" / f"{name}.md").read_text("utf-8") for name in ("en", "zh"))
    facts = told(chinese)
    assert len(facts) > 50
    assert facts <= told(english)
    names = {fact for fact in facts if re.fullmatch(r"[A-Z][a-z]+[A-Z]\w+|(?:mre|sai)-[\w-]+", fact)}
    assert len(names) > 15
    assert names <= told((PACK_ROOT / "README.md").read_text("utf-8").split("## Get a tuner")[1])


def test_help_and_templates_are_small():
    folders = (DOCS, LOCALES, PACK_ROOT / "workflows")
    assert sum(path.stat().st_size for folder in folders for path in folder.rglob("*.*")) < ARCHIVED_BYTES


def texts(schema) -> dict:
    """A node's texts in the form of locales/*/nodeDefs.json."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {each.id: {"name": each.id, "tooltip": each.tooltip} for each in schema.inputs},
        "outputs": {
            str(i): {"name": each.display_name, "tooltip": each.tooltip} for i, each in enumerate(schema.outputs)
        },
    }


def flat(entry: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Every text with its place."""
    found = {}
    for key, value in entry.items():
        found |= flat(value, (*path, key)) if isinstance(value, dict) else {(*path, key): value}
    return found


def test_english_is_what_the_nodes_say(schemas):
    """locales/en/nodeDefs.json: delete it and run this test to write a new one, then translate what has changed."""
    expected = {name: texts(schema) for name, schema in schemas.items()}
    path = LOCALES / "en" / "nodeDefs.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", "utf-8")
        pytest.fail(f"wrote {path.name}; look at what changed, translate it in locales/zh and run again")
    assert json.loads(path.read_text("utf-8")) == expected


def test_the_panel_of_a_training_has_every_text_in_chinese():
    words = {
        language: json.loads((LOCALES / language / "main.json").read_text("utf-8"))["scedit"]["training"]
        for language in ("en", "zh")
    }
    from_python = {key for key in words["zh"] if key.startswith("verdict_")}  # tests/training/test_verdict.py
    assert set(words["zh"]) - from_python == set(words["en"])
    for key, text in words["en"].items():
        assert sorted(re.findall(r"\{\w+\}", words["zh"][key])) == sorted(re.findall(r"\{\w+\}", text)), key


def test_chinese_has_every_text(schemas):
    english = flat({name: texts(schema) for name, schema in schemas.items()})
    chinese = flat(json.loads((LOCALES / "zh" / "nodeDefs.json").read_text("utf-8")))
    assert set(chinese) == set(english)
    for place, text in chinese.items():
        if place[-1] == "name" and english[place].isupper():
            continue  # the name of a wire
        assert CHINESE.search(text), place
        assert sorted(NUMBER.findall(text)) == sorted(NUMBER.findall(english[place])), place


@pytest.mark.parametrize(("language", "seen"), [("en", 10), ("zh", 8)])
def test_the_nodes_of_a_style_are_seen_when_scedit_is_searched(schemas, language, seen):
    """The page puts names and ids that begin with the word in order of their length, and aliases first among equals."""
    if not hasattr(schemas["SCEditLoadSCTuner"], "search_aliases"):
        pytest.skip("this host's schema has no search_aliases")
    names = json.loads((LOCALES / language / "nodeDefs.json").read_text("utf-8"))
    words = {name: (name, names[name]["display_name"]) for name in schemas}
    length = {name: min(len(each) for each in both if each.startswith("SCEdit")) for name, both in words.items()}
    found = sorted(length, key=lambda name: (length[name], "scedit" not in schemas[name].search_aliases))
    assert {"SCEditLoadSCTuner", "SCEditApplySCTuner"} <= set(found[:seen]), found
