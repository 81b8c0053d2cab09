"""Learning-rate schedules for your own Lightning Trainer: needs torch and pytorch-lightning, nothing else."""

from lightning_modules.classifier import Classifier
from lightning_modules.data import DATASETS, FashionMNISTDataModule, MNIST5kDataModule, MNISTDataModule
from lightning_modules.lr_scheduler import ScheduleLR
from lightning_modules.models import MNISTCNN, MODELS
from lightning_modules.optimizers import OPTIMIZERS, SGD, Adam
from lightning_modules.plateau import Plateau, PlateauState
from lightning_modules.schedules import SCHEDULES, Constant, CosineRestarts, ExponentialDecay, Schedule

__all__ = [
    "DATASETS",
    "MNISTCNN",
    "MODELS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "Classifier",
    "Constant",
    "CosineRestarts",
    "ExponentialDecay",
    "FashionMNISTDataModule",
    "MNIST5kDataModule",
    "MNISTDataModule",
    "Plateau",
    "PlateauState",
    "Schedule",
    "ScheduleLR",
]
