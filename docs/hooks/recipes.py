"""A page for every experiment in configs/, made when the site is built: its head comment, keys, and the file itself."""

import functools
import json
import re
from pathlib import Path
from typing import Any

from foldsmith.config.describe import describe_key
from foldsmith.config.loader import read_with_bases
from foldsmith.config.yaml_text import dump_inline

CONFIGS = Path(__file__).parents[2] / "configs"
FAMILIES = ["clipart", "imet", "two_stages", "planet", "insects"]  # pages of docs/recipes/, in the order of the site


def recipe_name(path: Path) -> str:
    """What --config takes."""
    return path.relative_to(CONFIGS).as_posix()


def head_of(text: str) -> tuple[str, str, list[str]]:
    """What a config's head comment says: what it is, the command, and the paragraphs after it (Data: ..., ...)."""
    lines = text.split("\n")[1:]  # after the line for editors
    lines = [line[2:] for line in lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]]
    at = next(index for index, line in enumerate(lines) if line.startswith("  "))
    notes = re.split(r"\n(?=[A-Z][a-z]+: )", "\n".join(lines[at + 2 :]))
    return " ".join(lines[: at - 1]), lines[at].strip(), [note.replace("\n", " ") for note in notes]


def recipe_page(path: Path) -> str:
    """A recipe's page, as Markdown."""
    text = path.read_text(encoding="utf-8")
    what, command, notes = head_of(text)
    document = read_with_bases(path)
    schema = _schema()
    rows = []
    for section, key, value in _keys(document.values):
        where = Path(document.mark((section, key) if key else (section,))[0])
        origin = "this file" if where.name == path.name else f"[{where.stem}]({where.stem}.md)"
        meaning = describe_key(schema, (section, key) if key else (section,))
        shown = dump_inline(value).replace("|", "\\|")
        rows.append(f"| `{section}{key and f'.{key}'}` | `{shown}` | {origin} | {_escaped(meaning)} |")
    parts = [f"# {path.stem}", what, f"```sh\n{command}\n```", "\n".join(f"- **{_bold(note)}" for note in notes)]
    parts += ["## Its keys", "| key | value | from | what it means |\n|---|---|---|---|\n" + "\n".join(rows)]
    parts += ["Keys that are not named here have [their defaults](%sconfig.md)." % ("../" * (_depth(path) + 1))]
    parts += ["## The file", f"`configs/{recipe_name(path)}`:", f"```yaml\n{text.rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


@functools.cache
def _schema() -> dict[str, Any]:
    return dict(json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8")))


def _keys(values: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Section, key and value; the key is empty where the section is a value itself, such as metric."""
    found: list[tuple[str, str, Any]] = []
    for section, keys in values.items():
        found += (
            [(section, key, value) for key, value in keys.items()] if isinstance(keys, dict) else [(section, "", keys)]
        )
    return found


def _bold(note: str) -> str:
    word, _, rest = note.partition(": ")
    return f"{word}:** {rest}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _depth(path: Path) -> int:
    return len(path.relative_to(CONFIGS).parts) - 1


def recipes_of(family: str) -> list[Path]:
    """The configs that a family's page lists, in its order."""
    text = (CONFIGS.parent / "docs" / "recipes" / f"{family}.md").read_text(encoding="utf-8")
    return [CONFIGS / name for name in re.findall(r"^\| `([\w/]+\.yml)` \|", text, re.MULTILINE)]


def on_config(config: Any) -> Any:
    """Put the pages into the navigation, below their family's."""
    (recipes,) = [entry for entry in config.nav if isinstance(entry, dict) and "Recipes" in entry]
    recipes["Recipes"] = ["recipes/index.md"]
    for family in FAMILIES:
        pages = [f"recipes/{Path(recipe_name(path)).with_suffix('.md').as_posix()}" for path in recipes_of(family)]
        title = (CONFIGS.parent / "docs" / "recipes" / f"{family}.md").read_text(encoding="utf-8").split("\n")[0][2:]
        recipes["Recipes"].append({title: [f"recipes/{family}.md", *pages]})
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path in sorted(CONFIGS.rglob("*.yml")):
        target = f"recipes/{Path(recipe_name(path)).with_suffix('.md').as_posix()}"
        files.append(File.generated(config, target, content=recipe_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Names of recipes in a family's table lead to their pages."""
    if not page.file.src_uri.startswith("recipes/") or page.file.generated_by:
        return markdown
    return re.sub(r"^\| `([\w/]+)\.yml` \|", r"| [`\1.yml`](\1.md) |", markdown, flags=re.MULTILINE)
