"""The final runs of a study: its best trials, its own trial and a constant lr, with the same fresh seeds.

They form a separate study, nested in the run of the first one in MLflow, and continue like it. Its name contains a
digest of the configurations, so if more trials change the best ones, the new ones are trained.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from tuner.config.study_name import final_name
from tuner.console import print_line
from tuner.runner.display import Part
from tuner.runner.open_study import OpenStudy, Outcome, Plan, checked, opened, opened_engine
from tuner.runner.options import ExecutionOptions
from tuner.runner.verdict import print_comparison, record_comparison
from tuner.storage.definition import DEFINITION_FILE
from tuner.storage.finalists import finalists
from tuner.storage.replicates import ReplicationStore, ReplicationStudy, fresh_seeds
from tuner.storage.stored_study import StoredStudy
from tuner.storage.study_store import StudyStore
from tuner.text import pluralize

if TYPE_CHECKING:
    from tuner.analysis.comparison import Comparison
    from tuner.storage.finalists import Finalists

__all__ = ["LastTrainings"]


@dataclass
class LastTrainings:
    """The final runs of a study.

    Args:
        plan: The study.
        options: Where they are trained.
        console: Shows their progress.
    """

    plan: Plan
    options: ExecutionOptions
    console: Console
    _result: "tuple[Comparison, Finalists] | None" = None
    _left: str = ""

    def run(self, study: OpenStudy[StudyStore]) -> Outcome | None:
        """Train them, or continue, and record the result; None if no trial of the study ran to completion.

        Args:
            study: The study, which has all its trials.
        """
        store, final = study.store, self.plan.config.final
        if final is None or not store.has_result:
            return None
        past = self._past(store)
        chosen = finalists(past, final.trials)
        config = self._replications(past, chosen, final.seeds)
        with opened_engine(self.options) as engine:
            plan = checked(config, engine, self.options)
            with opened(plan, self.console, ReplicationStore, self._part(store, config.trials)) as trainings:
                if plan.begun < config.trials:
                    configurations = pluralize(len(chosen.configs), "configuration")
                    seeds = pluralize(final.seeds, "fresh seed")
                    print_line(self.console, f"[bold]{config.name}[/bold]: {configurations} with {seeds} each")
                study.inner = trainings
                try:
                    outcome = trainings.train(engine)
                finally:
                    study.inner = None
                comparison = replace(trainings.store.comparison(), caveat=chosen.caveat)
                self._result = comparison, chosen
                if not outcome.is_over:
                    self._left = f"{trainings.store.count} of {pluralize(config.trials, config.kind.noun)} done"
                if outcome.is_over:
                    store.attributes.set_answer(comparison.findings(chosen.opponents), comparison.retrained)
                if outcome.is_delivered:
                    of = past.config.name, past.identifier
                    record_comparison(self.plan.uri, of, trainings.store.identifier, comparison, chosen.opponents)
        return outcome

    def _part(self, store: StudyStore, trainings: int) -> Part:
        """Return which part of the study's budget the final runs are."""
        config = self.plan.config
        whole = config.whole_allowance
        if whole is None or (config.limits_trials and store.count >= config.trials):
            return Part(store.count, store.count + trainings, 1, "trials")
        return Part(store.spent, whole.amount, whole.longest, whole.unit)

    def print(self) -> bool:
        """Print the result so far; return whether it is final, because all of them are trained."""
        if self._left:
            name = f"[bold]{self.plan.config.name}[/bold]"
            print_line(self.console, f"\nfinal runs of {name}: {self._left}; run the same command again to continue")
        if self._result:
            comparison, chosen = self._result
            print_comparison(self.console, comparison, chosen.opponents)
        return self._result is not None and not self._left

    def _past(self, store: StudyStore) -> StoredStudy:
        source = str(store.directory / DEFINITION_FILE)
        record, sources = store.record(), store.attributes.sources()
        return StoredStudy(
            self.plan.config, store.identifier, store.finished(), record, self.plan.storage, sources, source
        )

    def _replications(self, past: StoredStudy, chosen: "Finalists", count: int) -> ReplicationStudy:
        used = {past.config_of(trial).seed for trial in past.trials}
        seeds = fresh_seeds(past.config.sampler.arguments.get("seed", 0), count, used)
        values = {name: config.values() for name, config in chosen.configs.items()}
        name = final_name(past.config.name, values)
        return ReplicationStudy.of(
            past.config, name, chosen.configs, seeds, chosen.claims, sources=chosen.sources, confirms=past.identifier
        )
