"""URLs with passwords: refused on the command line, and never shown."""

import re

import pytest
from sqlalchemy import make_url

from tuner.errors import BadInputError
from tuner.urls import has_password, refuse_passwords, without_password, without_passwords

WITH_PASSWORD = [
    "postgresql://tuner:secret@db/optuna",
    "postgresql://tuner:sec/ret@db/optuna",
    "postgresql://tuner:sec?ret@db/optuna",
    "postgresql://tuner:sec#ret@db/optuna",
    "postgresql://tuner:sec@ret@db/optuna",
    "postgresql://tuner:sec:ret@db:5432/optuna?sslmode=require",
    "postgresql://tuner:sec ret@db/optuna",
    "postgresql://tuner:sec%2Fret@db/optuna",
    "postgresql://:secret@db/optuna",
    "postgresql:///optuna?user=tuner&password=secret",
    "postgresql://tuner@db/optuna?sslmode=require&sslpassword=secret",
    "mysql+pymysql://tuner:secret@db/mlflow?charset=utf8",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dtuner%3BPWD%3Dsecret",
    "http://ada:secret@mlflow:5000",
    "http://ada:sec/ret@mlflow",
    "http://ada:1/secret@mlflow",
    "https://mlflow/api?token=secret",
    "HTTPS://ada:secret@mlflow",
    "'http://ada:secret@mlflow'",
    '"postgresql://tuner:secret@db/optuna"',
    " postgresql://tuner:sec/ret@db/optuna",
    "ada:secret@db/optuna",
]
WITHOUT = [
    "postgresql://tuner@db:5432/optuna",
    "postgresql://tuner@db/optuna?application_name=a@b",
    "postgresql:///optuna?host=/tmp&passfile=/home/ada/.pgpass",
    "sqlite:////home/a:b@c/optuna.db",
    "sqlite:///file:optuna.db?mode=ro&uri=true",
    "http://127.0.0.1:5000",
    "http://mlflow:5000/path?mail=ada@lovelace",
    "http://[::1",
    "databricks",
    "databricks://profile",
    "mlflow.db",
    "odd@place/optuna.db",
]


@pytest.mark.parametrize("url", WITH_PASSWORD)
def test_a_password_in_any_form_of_a_url_is_refused_and_not_shown(url: str):
    assert has_password(url)
    assert "sec" not in without_password(url)
    assert "ret" not in without_password(url)
    with pytest.raises(BadInputError, match="every user of this machine can read a password"):
        refuse_passwords({"--storage": url})
    assert "secret" not in without_passwords(f"cannot reach {url!r}, that is {url}.", url)


@pytest.mark.parametrize("url", WITHOUT)
def test_a_url_without_a_password_is_shown_as_it_is(url: str):
    assert not has_password(url)
    assert without_password(url) == url
    refuse_passwords({"--storage": url})


@pytest.mark.parametrize(
    "url", [url for url in WITH_PASSWORD if re.match(r"\w+(\+\w+)?://", url) and make_url(url).password]
)
def test_the_password_that_sqlalchemy_parses_is_never_shown(url: str):
    assert str(make_url(url).password) not in without_password(url)


def test_the_name_in_a_web_address_is_not_shown_since_it_may_be_a_token():
    assert without_password("https://ghp_0123456789@mlflow/x") == "https://mlflow/x"


def test_passwords_are_removed_from_messages_of_other_libraries():
    url = "postgresql://tuner:s%2Fecret@db/mlflow?sslpassword=hush-hush"
    for said in (f"no {url}", "login s/ecret failed", "login s%2Fecret failed", "key hush-hush is wrong"):
        shown = without_passwords(said, url)
        assert "ecret" not in shown
        assert "hush" not in shown
    assert without_passwords("proxy http://ada:secret@proxy:8080 refused") == "proxy http://ada@proxy:8080 refused"
