"""The work that `work.yaml` describes, shared by the contenders, with the code of most examples for it."""

import itertools
from pathlib import Path

import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from lightning_modules import MNISTCNN, MNIST5kDataModule

_study = yaml.safe_load(Path(__file__).with_name("work.yaml").read_text())
_trial, _space = _study["trial"], _study["search_space"]
BATCH: int = _trial["data"]["batch_size"]
EPOCHS: int = _trial["trainer"]["max_epochs"]
DECAY_STEPS: int = _trial["schedule"]["decay_steps"]
LRS = [float(lr) for lr in _space["optimizer.initial_lr"]["choices"]]
DECAY_RATES = [float(rate) for rate in _space["schedule.decay_rate"]["choices"]]
CONFIGS = list(itertools.product(LRS, DECAY_RATES))

URI = "sqlite:///mlflow.db"
EXPERIMENT = "work"


def factor(decay_rate: float, step: int) -> float:
    """Return the factor on the initial lr at a step."""
    return decay_rate ** (step // DECAY_STEPS)


def images() -> MNIST5kDataModule:
    """Return MNIST-5k, split for training and validation."""
    data = MNIST5kDataModule(batch_size=BATCH)
    data.prepare_data()
    data.setup("fit")
    return data


class Digits(Dataset):
    """A dataset of single images, converted from pictures as in torchvision's MNIST."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.images = torch.cat([images for images, _ in batches]).squeeze(1).mul(255).round().byte()
        self.labels = torch.cat([labels for _, labels in batches]).tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(Image.fromarray(self.images[index].numpy(), mode=None)), self.labels[index]


def loaders() -> tuple[DataLoader, DataLoader]:
    """Return the usual loaders for training and validation."""
    data = images()
    training, validation = Digits(list(data.train_dataloader())), Digits(list(data.val_dataloader()))
    return DataLoader(training, batch_size=BATCH, shuffle=True), DataLoader(validation, batch_size=BATCH)


class UsualModule(pl.LightningModule):
    """The usual LightningModule of the reference CNN."""

    def __init__(self, initial_lr: float, decay_rate: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = MNISTCNN()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        inputs, labels = batch
        logits = self(inputs)
        loss = nn.functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict({f"{stage}/loss": loss, f"{stage}/acc": accuracy}, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.step(batch, "val")

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.initial_lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(self.hparams.decay_rate, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
