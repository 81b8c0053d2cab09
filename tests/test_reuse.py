"""`lightning_modules` in users' scripts: without the tuner, in other loops, in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import CosineRestarts, ExponentialDecay, ScheduleLR
from tests.launcher import output_of

ROOT = Path(__file__).parent.parent
FOREIGN = ("tuner", "optuna", "mlflow", "mlxtend", "pandas", "sqlalchemy", "pydantic", "simpleeval", "plotly")

MODULE = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from lightning_modules import ExponentialDecay, ScheduleLR

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.lrs = []
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.4)
        scheduler = ScheduleLR(optimizer, ExponentialDecay(decay_rate=0.5, decay_steps=1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
    def on_before_optimizer_step(self, optimizer):
        self.lrs.append(optimizer.param_groups[0]["lr"])
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()
"""


def python(script: str, *blocked: str) -> str:
    """Run a script in a process in which some packages cannot be imported, and return its output."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n" if blocked else ""
    command = [sys.executable, "-c", block + script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# As in a new process without these packages: the library is imported again.
WITHOUT = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in (*{blocked!r}, "lightning_modules")]:
    del sys.modules[name]
sys.modules.update(dict.fromkeys({blocked!r}))
"""


@pytest.mark.parametrize("is_new", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_works_where_only_torch_and_lightning_are_installed(is_new: bool, tmp_path: Path):
    script = """
import torch
from lightning_modules import MLP, Adam, Classifier, CosineRestarts, Plateau, ScheduleLR, MNISTDataModule
schedule = Plateau(schedule=CosineRestarts(restart_period=3))
module = Classifier(MLP(inputs=4, num_classes=3), Adam(initial_lr=0.1), schedule)
scheduler = module.configure_optimizers()["lr_scheduler"]["scheduler"]
scheduler.optimizer.step()
scheduler.step()
print(round(scheduler.get_last_lr()[0], 4))
"""
    output = python(script, *FOREIGN) if is_new else output_of(WITHOUT.format(blocked=FOREIGN) + script, tmp_path)
    assert output.split() == ["0.075"]


@pytest.mark.slow
def test_the_schedule_drops_into_a_module_of_the_other_lightning():
    script = f"""
import lightning.pytorch as pl
{MODULE}
module = Module()
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(module, DataLoader(TensorDataset(torch.ones(3, 1))))
print(module.lrs)
"""
    assert python(script).splitlines()[-1] == "[0.4, 0.2, 0.1]"


@pytest.mark.slow
def test_every_process_of_a_distributed_training_has_the_lr_of_the_step(tmp_path: Path):
    script = tmp_path / "ddp.py"
    script.write_text(f"""
import sys, pytorch_lightning as pl
from pathlib import Path
{MODULE}    def on_train_end(self):
        Path(sys.argv[1], str(self.global_rank)).write_text(str(self.lrs))

if __name__ == "__main__":
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp_spawn", accumulate_grad_batches=2,
                         logger=False, enable_checkpointing=False, enable_progress_bar=False,
                         enable_model_summary=False)
    trainer.fit(Module(), DataLoader(TensorDataset(torch.ones(12, 1))))
""")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[0.4, 0.2, 0.1]"] * 2


def test_a_plain_loop_accumulates_over_several_parameter_groups():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}], lr=1.0)
    scheduler = ScheduleLR(optimizer, CosineRestarts(restart_period=3))
    seen = []
    for micro_batch in range(8):
        (first * second).sum().backward()
        if micro_batch % 2:
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    factors = [CosineRestarts(restart_period=3)(step) for step in range(4)]
    assert seen == [[0.1 * factor, 0.01 * factor] for factor in factors]


class Manual(pl.LightningModule):
    """Two optimizers with manual optimization, each with its own schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(1, 1)
        self.lrs: list[tuple[float, ...]] = []

    def configure_optimizers(self):
        optimizers = [torch.optim.SGD([parameter], lr=0.4) for parameter in self.parameters()]
        rates = (0.5, 0.25)
        schedules = [ExponentialDecay(decay_rate=rate, decay_steps=1) for rate in rates]
        return optimizers, [ScheduleLR(each, schedule) for each, schedule in zip(optimizers, schedules, strict=True)]

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        self.lrs.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in optimizers))
        self.manual_backward(self.layer(batch[0]).mean())
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


def test_it_works_where_a_module_optimises_by_hand():
    module = Manual()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(3, 1))))
    assert module.lrs == [(0.4, 0.4), (0.2, 0.1), (0.1, 0.025)]
