"""``lr-tuner retry``: retry the failed trials of a study, under the same numbers."""

import dataclasses
from collections.abc import Sequence

from tuner.cli import RUN_EXIT_CODES, Parser, add_options, command, make_parser
from tuner.errors import BadInputError
from tuner.process import leave, own_command
from tuner.runner.options import ExecutionOptions, StudyOptions, option
from tuner.runner.run import run
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetryOptions(ExecutionOptions):
    """The study whose failed trials are trained again."""

    study: str = option(
        dataclasses.MISSING, "name of a study that was run, or its study file", "NAME", is_positional=True
    )


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "retry",
        "Retry the failed trials of a study, under the same numbers, once the cause is fixed.",
        {
            "retry quickstart": "",
            "retry studies/mine.yaml": "a study given by its file",
        },
        RUN_EXIT_CODES,
        "It continues the study as lr-tuner study --retry-failed does. The failed attempts keep their runs in MLflow.\n"
        "For a confirmation, use lr-tuner confirm --retry-failed.",
    )
    add_options(made, RetryOptions)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Train failed trials again and return the exit code."""
    options = RetryOptions(**vars(parser().parse_args(arguments)))
    return command(lambda: _run(options), options, continues=True)


def _run(options: RetryOptions) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    from tuner.config.loader import load_study
    from tuner.storage.inventory import listed_studies
    from tuner.storage.stored_study import definition_of

    storage = storage_url(options.storage)
    studies = {each.name: each for each in listed_studies(storage)}
    if (listed := studies.get(options.study)) and listed.confirms:
        of = next((name for name, each in studies.items() if each.identifier == listed.confirms), "NAME")
        advice = f"{own_command()} confirm {of} --retry-failed, with the options that it was started with"
        raise BadInputError([f"{options.study} is a confirmation; to retry its failed runs, use {advice}."])
    source, folder = definition_of(options.study, storage)
    name = load_study(source, folder=folder).name
    if name not in studies or not studies[name].ends.get("failed"):
        print(f"no failed trials in {name}")  # noqa: T201
        return 0
    places = {field.name: getattr(options, field.name) for field in dataclasses.fields(ExecutionOptions)}
    return run(StudyOptions(**places, study=source, folder=folder, retry_failed=True)).exit_code


if __name__ == "__main__":
    leave(main())
