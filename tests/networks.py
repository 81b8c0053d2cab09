"""Custom networks that disturb the studies that use them."""

from pathlib import Path

from tests.conftest import StudyFolder

IRIS = Path(__file__).parent / "iris.yaml"


def with_network(folder: StudyFolder, body: str) -> str:
    """Write a custom network, the tiny one with extra code before it computes; return the option that uses it."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    (folder.path / "own.py").write_text(
        "import os\nfrom pathlib import Path\n\nfrom lightning_modules import MNISTCNN\n\n\n"
        f"class Net(MNISTCNN):\n    def forward(self, images):\n{lines}\n        return super().forward(images)\n"
    )
    return "trial.model={name: 'own:Net', channels: [8, 8, 8], hidden: [32, 16]}"


def with_iris_network(folder: StudyFolder, body: str) -> str:
    """Write a custom network for the study of `IRIS`, with extra code before it computes; return the option."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    (folder.path / "own.py").write_text(
        "import os\nfrom pathlib import Path\n\nfrom lightning_modules import MLP\n\n\n"
        f"class Net(MLP):\n    def forward(self, rows):\n{lines}\n        return super().forward(rows)\n"
    )
    return "trial.model={name: 'own:Net', inputs: 4, neurons: 8}"
