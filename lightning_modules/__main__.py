"""``python -m lightning_modules fit --config best.yaml``: train from a configuration file, with Lightning's CLI."""

import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run the LightningCLI, and print the final metrics of a run."""
    try:
        from jsonargparse import set_parsing_settings
        from pytorch_lightning.cli import LightningCLI
    except ImportError as error:
        sys.exit(f'python -m lightning_modules needs jsonargparse: pip install "lr-tuner[cli]" ({error})')
    import pytorch_lightning as pl

    from lightning_modules import Plateau

    class CLI(LightningCLI):
        def after_fit(self) -> None:
            metrics = self.trainer.callback_metrics
            print(", ".join(f"{key} {float(metrics[key]):.4f}" for key in sorted(metrics)))  # noqa: T201

    set_parsing_settings(subclasses_enabled=[Plateau])  # accept a Plateau, with a class_path, as a schedule
    CLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,  # the modules configure their optimizers
        save_config_kwargs={"overwrite": True},
        args=arguments,
    )


if __name__ == "__main__":
    main()
