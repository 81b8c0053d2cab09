"""What the README shows is what there is."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_study_that_the_readme_shows_is_the_quickstart():
    assert f"```yaml\n{(ROOT / 'studies' / 'quickstart.yaml').read_text()}```" in README


def test_every_file_that_the_readme_names_exists():
    for name in (
        "docs/terminal.svg",
        "docs/mlflow.png",
        "docs/schedules.md",
        "docs/report.png",
        "benchmarks",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ):
        assert name in README
        assert (ROOT / name).exists()


def test_the_tree_in_contributing_is_the_tree_that_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for package in ("lightning_modules", "tuner", "tuner/engines"):
        for path in (ROOT / package).glob("[!_]*.py"):
            assert path.name in text, f"{path.name} is missing in CONTRIBUTING.md"
