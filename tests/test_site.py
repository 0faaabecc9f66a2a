"""The documentation site: ``.ci/run`` builds it, and here are its pages."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``.ci/site.py``, with its pages gathered in ``tmp_path``."""
    monkeypatch.syspath_prepend(ROOT / ".ci")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / ".ci" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGES", tmp_path / "pages")
    module.gather()
    return module


def test_every_public_name_is_documented(site: ModuleType) -> None:
    """Each has a place on a page of the reference, and a docstring, as its methods have."""
    assert [*site.undocumented()] == []
    index = (site.PAGES / "reference" / "README.md").read_text("utf-8")
    for name in ("BlossomClient", "RateLimit", "SharedGate", "NotFound", "FakeOpenAI"):
        assert f"| [`{name}`](" in index


def test_every_page_is_in_the_navigation(site: ModuleType) -> None:
    """A page that is added to ``docs/`` or ``examples/`` is added to ``zensical.toml``."""
    assert [*site.not_in_the_navigation()] == []


def test_every_call_over_http_is_described(site: ModuleType) -> None:
    """Calls, their answers and the limits of their fields are on a page."""
    page = (site.PAGES / "reference" / "http.md").read_text("utf-8")
    assert "## POST /v1/images\n" in page
    assert "| `width` | integer or null, 16 to 4,096 |" in page
    assert "| 410 | The picture was deleted or has expired." in page


def test_every_command_has_a_manual_page(tmp_path: Path) -> None:
    """Those of all commands, and groff complains of none."""
    subprocess.run([sys.executable, ROOT / ".ci" / "man.py", tmp_path], check=True, timeout=LIMIT_S)
    pages = {page.stem: page for page in (tmp_path / "man1").iterdir()}
    assert {"blossom", "blossom-batch", "blossom-keys-create", "blossom-doctor"} <= set(pages)
    batch = pages["blossom-batch"].read_text("utf-8")
    assert "\n.TP\n\\fB\\-\\-gallery FILE\\fR\nWrite an HTML page" in batch
    if shutil.which("groff"):
        command = ["groff", "-man", "-ww", "-z", "-Kutf8", "-Tutf8", *map(str, pages.values())]
        checked = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S)
        assert (checked.returncode, checked.stderr) == (0, b"")
