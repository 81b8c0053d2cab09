"""What a study prints before and after."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tuner.config import StudyConfig
from tuner.messages import Slot
from tuner.search_space import Choices, searched
from tuner.storage import StudyStore
from tuner.tracking import Tracker

__all__ = ["print_plan", "print_summary"]


def print_plan(console: Console, config: StudyConfig, slots: Sequence[Slot], storage: str, uri: str) -> None:
    """Print what will be done."""
    devices = sorted({slot.device for slot in slots})
    places = f"{len(slots)} slot{'s' if len(slots) > 1 else ''} on {', '.join(devices)}"
    if devices == ["cpu"]:
        places += f", {slots[0].threads} thread{'s' if slots[0].threads > 1 else ''} each"
    console.print(
        f"[bold]{config.name}[/bold]: {config.trials} trials for the best {config.objective.metric}, "
        f"{config.sampler.name} sampler, {config.pruner.name} pruner, {places}",
        highlight=False,
        soft_wrap=True,
    )
    for path, spec in searched(config.trial):
        if isinstance(spec, Choices):
            values = ", ".join(str(value) for value in spec.values)
        else:
            values = f"{spec.low:g} to {spec.high:g}{' (log)' if spec.log else ''}"
        console.print(f"  [dim]{escape(path)}: {escape(values)}[/dim]", highlight=False, soft_wrap=True)


def print_summary(
    console: Console, config: StudyConfig, store: StudyStore, tracker: Tracker, storage: str, delivered: bool
) -> None:
    """Print what came out, and how to look further."""
    finished, top = store.finished(), store.ranking()[:5]
    states: dict[str, int] = {}
    for trial in finished:
        state = trial.user_attrs.get("state", trial.state.name.lower())
        states[state] = states.get(state, 0) + 1
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    done = "has all its" if len(finished) >= config.trials else f"has {len(finished)} of"
    more = "" if len(finished) < config.trials else "; raise --trials to add more"
    console.print(f"\n[bold]{config.name}[/bold] {done} {config.trials} trials ({counts}){more}", highlight=False)
    if top:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("", config.objective.metric, "schedule", "values"):
            table.add_column(column)
        for trial in top:
            family = trial.params.get(
                "schedule.name", config.trial["schedule"]["name"] if isinstance(config.trial["schedule"], dict) else ""
            )
            values = ", ".join(
                f"{path.rpartition('.')[2]} {value:.4g}"
                if isinstance(value, float)
                else f"{path.rpartition('.')[2]} {value}"
                for path, value in trial.params.items()
                if path != "schedule.name"
            )
            table.add_row(f"#{trial.number}", f"{trial.value:.4f}", family, values)
        console.print(table, highlight=False)
        test = store.study.user_attrs.get("test")
        if test and test["trial"] == top[0].number:
            values = ", ".join(f"{key} {value:.4f}" for key, value in sorted(test["metrics"].items()))
            console.print(f"best trial #{top[0].number} on the test data: {values}", highlight=False)
        console.print(
            f"its weights: {store.directory / 'trials' / str(top[0].number) / 'model.ckpt'}",
            highlight=False,
            soft_wrap=True,
        )
    plain = tracker.uri.startswith("sqlite:///") and tracker.uri.endswith("/mlflow.db")
    look = "mlflow ui" if plain else f"mlflow ui --backend-store-uri {tracker.uri}"
    if tracker.uri.startswith("http"):
        look = f"{tracker.uri}/#/experiments/{tracker.experiment_id}"
    console.print(f"\nlr curves and accuracies: {look}", highlight=False, soft_wrap=True)
    if not delivered:
        console.print(
            "[yellow]MLflow did not take all records; run the same command again when it is up.[/yellow]",
            soft_wrap=True,
        )
