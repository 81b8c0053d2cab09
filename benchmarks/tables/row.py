"""The model of a study on a table: it has the arguments that the table varies, and is never trained."""

from typing import Any

import pytorch_lightning as pl


class Row(pl.LightningModule):
    """A row of a table.

    Args:
        optimizer: Adam, with the row's initial lr and eps.
        schedule: The row's decay.
        gap1: 1 minus Adam's beta1.
        gap2: 1 minus Adam's beta2.
        l1: Factor of the L1 norm of the weights.
        l2: Factor of their L2 norm.
    """

    def __init__(self, optimizer: Any, schedule: Any, gap1: float, gap2: float, l1: float, l2: float) -> None:
        super().__init__()
