"""Optimizers as settings: frozen dataclasses that build the torch optimizer when called with parameters.

Pass them to a `Classifier`, or call them in your own ``configure_optimizers``::

    optimizer = Adam(initial_lr=1e-3, eps=1e-4)(self.parameters())

`initial_lr` is torch's ``lr`` argument, the value that a schedule multiplies. Momentum and weight decay stay constant
unless they have their own schedules. Each optimizer uses torch's fused kernels where they exist (also on a CPU,
where they are several times faster), and batched ("foreach") kernels elsewhere.

Every optimizer with an epsilon exposes it as `eps`, so that it can be searched together with the lr. The usual default
of 1e-8 does not suit every network: TensorFlow's documentation mentions 1 and 0.1 for Inception on ImageNet. The same
value also means different things: torch adds `eps` to the root of the mean square (bias-corrected in Adam), Keras to
the uncorrected root in Adam (`AdamEpsilonHat`) and *under* the root in Adagrad, RMSprop and Adadelta.

`Lion`, `AdEMAMix`, `Adan`, `Prodigy` and `SOAP` come from the package pytorch_optimizer, `ScheduleFreeAdamW` and
`ScheduleFreeSGD` from schedulefree; both are optional.
"""

from lightning_modules.optimizers.adam import Adam, AdamEpsilonHat, AdamW
from lightning_modules.optimizers.adam import TorchAdamEpsilonHat as TorchAdamEpsilonHat  # exported files name it here
from lightning_modules.optimizers.base import Optimizer
from lightning_modules.optimizers.classic import SGD, Adadelta, Adagrad, RMSprop
from lightning_modules.optimizers.libraries import SOAP, Adan, AdEMAMix, Lion, Prodigy
from lightning_modules.optimizers.muon import Muon
from lightning_modules.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "SOAP",
    "AdEMAMix",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamEpsilonHat",
    "AdamW",
    "Adan",
    "Lion",
    "Muon",
    "Optimizer",
    "Prodigy",
    "RMSprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
]

OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adadelta": Adadelta,
    "adagrad": Adagrad,
    "adam": Adam,
    "adam_epsilon_hat": AdamEpsilonHat,
    "adamw": AdamW,
    "adan": Adan,
    "ademamix": AdEMAMix,
    "lion": Lion,
    "muon": Muon,
    "prodigy": Prodigy,
    "rmsprop": RMSprop,
    "schedule_free_adamw": ScheduleFreeAdamW,
    "schedule_free_sgd": ScheduleFreeSGD,
    "sgd": SGD,
    "soap": SOAP,
}
"""The optimizers by their names in study files."""
