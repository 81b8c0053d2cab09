"""The README is short, its example works, and no page has a broken link."""

import re
from pathlib import Path

import pytest

from tests.studies import StudyFolder
from tuner.cli import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


def prose(page: Path) -> str:
    """Return the text of a page, without code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(name: str):
    page = ROOT / name
    text = re.sub(r"`[^`\n]+`", "code", prose(page))
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(path), target


def test_the_readme_is_read_in_a_few_minutes():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 900


def test_the_network_and_the_study_in_the_readme_can_be_trained(folder: StudyFolder):
    (network,) = re.findall(r"```python\n# my_network\.py\n(.*?)```", README, re.DOTALL)
    (study,) = re.findall(r"```yaml\n# my_study\.yaml\n(.*?)```", README, re.DOTALL)
    assert len(study.splitlines()) <= 15
    (folder.path / "my_network.py").write_text(network)
    (folder.path / "my_study.yaml").write_text(study)
    assert "no errors found" in folder.call("--dry-run", study=folder.path / "my_study.yaml")


def test_the_commands_in_the_readme_exist():
    named = re.findall(r"^\| `(?:python -m tuner\.|lr-tuner )(\w+)", README, re.MULTILINE)
    assert len(named) >= 8
    assert set(named) <= set(COMMANDS)
