"""Writes the JSON schema of study files, for editors, into studies/study.schema.json.

Run ``python docs/make_schema.py`` after an argument, a docstring or a section changed; a test compares the two.
"""

import json
from pathlib import Path

from tuner.config.schema import study_schema

FILE = Path(__file__).parent.parent / "studies" / "study.schema.json"


def contents() -> str:
    """Return the schema as the content of the file."""
    return json.dumps(study_schema(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(contents(), encoding="utf-8")
