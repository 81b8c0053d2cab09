"""Data sets as Lightning data modules."""

from lightning_modules.data.base import DataError, TensorDataModule, TensorLoader
from lightning_modules.data.mnist import FashionMNISTDataModule, MNIST5kDataModule, MNISTDataModule
from lightning_modules.data.tables import IrisDataModule

__all__ = [
    "DATASETS",
    "TABLES",
    "DataError",
    "FashionMNISTDataModule",
    "IrisDataModule",
    "MNIST5kDataModule",
    "MNISTDataModule",
    "TensorDataModule",
    "TensorLoader",
]

TABLES: dict[str, type[TensorDataModule]] = {"iris": IrisDataModule}
"""Data sets of tables, by their names in study files."""

DATASETS: dict[str, type[TensorDataModule]] = {
    "fashion_mnist": FashionMNISTDataModule,
    "mnist": MNISTDataModule,
    "mnist_5k": MNIST5kDataModule,
    **TABLES,
}
"""All data sets, by their names in study files."""
