"""The documentation as a site."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

pytest.importorskip("material", reason="needs the extra docs")
pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")

# What a page fetches when it is opened, in contrast to what it links.
FETCHED = re.compile(
    r"<(?:script|img|iframe|link rel=.?stylesheet)[^>]*?(?:src|href)=.?(https?:[^ >]+)"
)


def test_the_site(tmp_path, monkeypatch):
    """It builds without a warning, so without dead links; no page fetches from other hosts."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    pages = {
        p.relative_to(tmp_path).as_posix(): p.read_text("utf-8") for p in tmp_path.rglob("*.html")
    }
    assert {
        page: FETCHED.findall(text) for page, text in pages.items() if FETCHED.search(text)
    } == {}
    home = pages["index.html"]
    assert 'href="own_data/"' in home and 'src="detections.png"' in home
    api = pages["api/detection/index.html"]
    assert 'id="prunet_det.detection.PruNet"' in api and "Rate of stochastic depth" in api
    assert (tmp_path / "checkpoints" / "prunet_demo_digits.json").is_file()


def test_what_would_be_fetched():
    found = (
        '<script src="https://a.org/x.js"></script> <link rel=stylesheet href=https://b.org/y.css>'
    )
    assert FETCHED.findall(found) == ['https://a.org/x.js"', "https://b.org/y.css"]
    assert not FETCHED.findall('<a href="https://a.org">a</a> <link rel="stylesheet" href="x.css">')
