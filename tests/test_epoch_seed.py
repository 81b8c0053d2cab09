"""`EpochSeed` in a plain Trainer: a resumed training has the batches of an uninterrupted one."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_modules import EpochSeed

EPOCHS, RESUMED = 4, 2


class Noisy(Dataset[Tensor]):
    """Numbers with noise from each of the global generators."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index), np.random.rand(), random.random(), float(torch.rand(()))])


class Counting(IterableDataset[Tensor]):
    """Goes on where it was left: a batch that is drawn and not used is lost."""

    count = 0

    def __iter__(self) -> Any:
        for _ in range(6):
            self.count += 1
            yield torch.full((4,), float(self.count))


class Recorder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.batches: list[tuple[int, list[float]]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.batches.append((self.current_epoch, batch.flatten().tolist()))
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def trained(loader: Any, folder: Path, checkpoint: Path | None = None) -> list[tuple[int, list[float]]]:
    torch.manual_seed(0 if checkpoint is None else 1)
    module = Recorder()
    saver = [ModelCheckpoint(folder, "{epoch}", save_top_k=-1)] if checkpoint is None else []
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[EpochSeed(3), *saver],
        enable_checkpointing=checkpoint is None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, ckpt_path=checkpoint)
    return module.batches


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("generator", [None, 5], ids=["global", "own generator"])
@pytest.mark.filterwarnings("ignore:.*(num_workers|does not have many workers|Be aware that when)")
def test_a_resumed_training_has_the_batches_of_an_uninterrupted_one(
    workers: int, generator: int | None, tmp_path: Path
):
    def loader() -> DataLoader[Tensor]:
        own = None if generator is None else torch.Generator().manual_seed(generator)
        return DataLoader(Noisy(), 3, shuffle=True, num_workers=workers, generator=own)

    whole = trained(loader(), tmp_path)
    assert len({tuple(numbers) for _, numbers in whole}) == 2 * EPOCHS, "another order and other noise in each epoch"
    assert trained(loader(), tmp_path, tmp_path / f"epoch={RESUMED - 1}.ckpt") == whole[2 * RESUMED :]


@pytest.mark.filterwarnings("ignore:.*num_workers|.*does not have many workers|Be aware that when")
def test_no_batch_of_a_stream_is_lost(tmp_path: Path):
    batches = trained(DataLoader(Counting(), 3), tmp_path)
    assert [numbers[0] for _, numbers in batches[:2]] == [1.0, 4.0]
