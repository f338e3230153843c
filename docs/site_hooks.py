"""What mkdocs does beside building docs/: pages and files of the checkout, and links to them.

README.md is the site's home, and CONTRIBUTING.md and CHANGELOG.md are pages of it. A link is
written for whoever reads the file where it lies, so the site's links are made from the checkout's.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
FILES = ("LICENSE", "NOTICE", "checkpoints/*.json")  # what pages link outside of docs/
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#]+)")


CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def example_page(script):
    """The Markdown of a script in percent format: prose from its comments, and its code."""
    _, *cells = CELL.split(script)
    parts = []
    for prose, text in zip(cells[::2], cells[1::2], strict=True):
        if prose:
            parts.append(re.sub(r"^# ?", "", text, flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{text.strip()}\n```\n")
    return "\n".join(parts)


def on_files(files, config):
    """Adds the pages and files that lie outside of docs/."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for path in sorted((ROOT / "examples").glob("*.py")):
        content = example_page(path.read_text(encoding="utf-8"))
        files.append(File.generated(config, f"examples/{path.stem}.md", content=content))
    for path in sorted(p for pattern in FILES for p in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns GitHub's Markdown into mkdocs': links between files into links between pages."""
    of_page = {site: path for path, site in PAGES.items()}
    source = of_page.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target = PAGES.get(target, target.removeprefix("docs/"))
        target = re.sub(r"^(examples/\w+)\.py$", r"\1.md", target)
        return f"]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}"

    # GitHub wants a bar in a table's code escaped, and Python-Markdown takes it as it is.
    return LINK.sub(moved, markdown).replace(r"\|", "|")
