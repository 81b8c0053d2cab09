"""Importing Lightning without the libraries that few programs use."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

START = """
import sys
import lightning_modules
import pytorch_lightning
import torch
import torchmetrics
"""


def run(code: str, *arguments: Path) -> str:
    command = [sys.executable, "-c", START + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# The quick tests share a process, as importing torch and Lightning takes seconds.
QUICK = """
print([name for name in ('torch._dynamo', 'triton', 'matplotlib', 'scipy.signal') if name in sys.modules])

from tuner.config.loader import load_study
print(load_study(sys.argv[1], []).name, "torch._dynamo" in sys.modules)

from lightning_modules.lightning_import import uncompiled_optimizers
weights = [torch.nn.Parameter(torch.zeros(1))]
with uncompiled_optimizers():
    print(torch.optim.Adam(weights).param_groups[0]["params"] == weights, "torch._dynamo" in sys.modules)
print(torch.optim.Adam(weights).param_groups[0]["params"] == weights, "torch._dynamo" in sys.modules)
method = torch.optim.Optimizer.add_param_group.__wrapped__.__dynamo_disable
with uncompiled_optimizers():
    torch.optim.Adam(weights)
print(torch.optim.Optimizer.add_param_group.__wrapped__.__dynamo_disable is method)

print(torchmetrics.utilities.plot._get_col_row_split(4))

import lightning_modules.lightning_import as ours
placeholder = ours._Placeholder("fractions")
sys.modules["fractions"] = placeholder
from fractions import Fraction
print(Fraction(1, 2))
import fractions
print(fractions is placeholder)
"""


@pytest.fixture(scope="module")
def printed() -> list[str]:
    return run(QUICK, ROOT / "studies" / "quickstart.yaml").splitlines()


def test_libraries_that_few_programs_use_are_not_imported(printed: list[str]):
    assert printed[0] == "[]"


def test_a_command_that_only_checks_a_study_does_not_import_the_compiler(printed: list[str]):
    assert printed[1] == "quickstart False"


def test_optimizers_can_be_built_without_the_compiler_for_a_while(printed: list[str]):
    assert printed[2:5] == ["True False", "True True", "True"]


def test_a_name_that_lightning_did_not_use_is_still_found(printed: list[str]):
    assert printed[5:] == ["(2, 2)", "1/2", "False"]


@pytest.mark.slow
def test_they_are_imported_when_they_are_used():
    code = """
from pytorch_lightning.utilities.compile import from_compiled
from lightning_modules import Classifier
import torchvision

module = Classifier(torch.nn.Linear(2, 2), torch.optim.SGD)
assert from_compiled(torch.compile(module)) is module
try:
    from_compiled(module)
except ValueError as error:
    print(error)
metric = torchmetrics.Accuracy(task="binary")
metric.update(torch.ones(3), torch.ones(3))
print(type(metric.plot()[0]).__name__)
print(torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0.0, 0, 4, 4]])], 1).item())
import scipy.signal
print(scipy.signal.__name__)
from pytorch_lightning.utilities.model_summary import ModelSummary
module.example_input_array = torch.ones(3, 2)
print(ModelSummary(module).total_flops)
"""
    assert run(code).splitlines() == [
        "`model` is required to be a `OptimizedModule`. Found a `Classifier` instead.",
        "Figure",
        "1.0",
        "scipy.signal",
        "24",
    ]
