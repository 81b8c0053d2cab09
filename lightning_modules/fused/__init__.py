"""Train several trials as one vectorized model."""

from lightning_modules.fused.checkpoints import merge_checkpoints, split_checkpoint
from lightning_modules.fused.classifier import FusedClassifier, can_fuse

__all__ = ["FusedClassifier", "can_fuse", "merge_checkpoints", "split_checkpoint"]
