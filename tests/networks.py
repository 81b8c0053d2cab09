"""Custom networks that disturb the studies that use them, or hold them in the middle of a training."""

from pathlib import Path

from tests.studies import StudyFolder

IRIS = Path(__file__).parent / "iris.yaml"
FIRST_EPOCH = 9  # steps of the tiny study
OWN_NETWORK = "trial.model={name: 'own:Net', inputs: 4, neurons: 8}"
HOLDING = f"""\
self.steps = getattr(self, "steps", 0) + self.training
while self.steps > {FIRST_EPOCH} and Path("hold").exists():
    time.sleep(0.01)"""


def with_network(folder: StudyFolder, body: str) -> str:
    """Write a custom network, the tiny study's with extra code before it computes; return the option."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    (folder.path / "own.py").write_text(
        "import os\nimport time\nfrom pathlib import Path\n\nfrom lightning_modules import MLP\n\n\n"
        f"class Net(MLP):\n    def forward(self, rows):\n{lines}\n        return super().forward(rows)\n"
    )
    return OWN_NETWORK


def holding(folder: StudyFolder) -> tuple[str, str]:
    """Hold every training of the tiny study in its second epoch or later, until `release`; return the options.

    The values, curves and weights are those of the tiny study.
    """
    (folder.path / "hold").touch()
    return "--set", with_network(folder, HOLDING)


def holding_the_check(folder: StudyFolder) -> tuple[str, str]:
    """Hold the tiny study while it is checked, for which its fork server does not wait; return the options."""
    (folder.path / "hold").touch()
    (folder.path / "own.py").write_text(
        "import time\nfrom pathlib import Path\n\nfrom lightning_modules import MLP\n\n"
        "while Path('hold').exists():\n    time.sleep(0.01)\n\n\nclass Net(MLP):\n    pass\n"
    )
    return "--set", OWN_NETWORK


def release(folder: StudyFolder) -> None:
    """Let the trainings, or the study, go on that are held."""
    (folder.path / "hold").unlink()
