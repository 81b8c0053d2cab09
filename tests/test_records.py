"""The thread that writes records, with a real database that is removed, damaged and restored."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tuner.tracking import record_writer as records
from tuner.tracking.precedence import Precedence
from tuner.tracking.record_writer import MISSES, Record, RecordWriter


class Store:
    """A table of texts, and a writer for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.given_up, self.notes = path, [], []
        self.joinable: dict[int, str | None] = {}
        self.joined: list[dict[str, int]] = []
        with sqlite3.connect(path) as database:
            database.execute("create table texts (text not null)")
        database.close()
        self.writer = RecordWriter(
            "records",
            lambda error: isinstance(error, sqlite3.OperationalError),
            lambda: self.add("probe"),
            lambda error: self.notes.append(f"away: {error}"),
            lambda: self.notes.append("back"),
        )

    def add(self, text: str | None) -> None:
        with sqlite3.connect(f"file:{self.path}?mode=rw", uri=True, timeout=0) as database:
            database.execute("insert into texts values (?)", [text])
        database.close()

    def put(self, lane: str, *texts: str | None, newest: str = "") -> None:
        self.writer.put(lane, self.record(texts, newest))

    def put_joinable(self, lane: str, text: str | None) -> None:
        """Put a record that can be joined with others."""
        record = self.record((text,))
        record.join = self.join
        self.joinable[id(record)] = text
        self.writer.put(lane, record)

    def join(self, lanes: Mapping[str, Sequence[Record]]) -> dict[str, int]:
        """Write the first three records of each lane in one transaction."""
        parts = {lane: records[:3] for lane, records in lanes.items()}
        self.record(tuple(self.joinable[id(each)] for part in parts.values() for each in part)).write()
        counts = {lane: len(part) for lane, part in parts.items()}
        self.joined.append(counts)
        return counts

    def record(self, texts: tuple[str | None, ...], newest: str = "") -> Record:
        def write() -> None:
            with sqlite3.connect(f"file:{self.path}?mode=rw", uri=True, timeout=0) as database:
                if "poison" in texts:
                    raise sqlite3.OperationalError("database is locked")  # each time, and only for this text
                database.executemany("insert into texts values (?)", [[text] for text in texts])
            database.close()

        def divide(error: Exception) -> list[Record]:
            return [self.record((text,)) for text in texts]

        return Record(write, lambda error: self.given_up.append((texts, str(error))), divide, newest)

    def texts(self) -> list[str]:
        with sqlite3.connect(self.path) as database:
            found = [text for (text,) in database.execute("select text from texts") if text != "probe"]
        database.close()
        return found

    def locked(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None)
        database.execute("begin exclusive")
        return database


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(records, "PAUSES", (0.01,))
    monkeypatch.setattr(records, "LAST_PAUSE", 0.01)
    store = Store(tmp_path / "texts.db")
    yield store
    store.writer.close()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_records_of_a_lane_are_written_in_order(store: Store):
    for number in range(50):
        store.put(f"lane {number % 3}", f"{number % 3}:{number}")
    assert store.writer.drain(10)
    for lane in "012":
        numbers = [int(text[2:]) for text in store.texts() if text.startswith(lane)]
        assert numbers == sorted(numbers)
    assert len(store.texts()) == 50


def test_records_that_wait_are_written_at_once(store: Store):
    database = store.locked()
    store.put("a", "first")
    wait_for(lambda: store.writer._outage)
    for number in range(5):
        store.put_joinable("a", str(number))
    store.put("a", "last")
    for text in ("good", "better"):
        store.put_joinable("b", text)
    assert 0 < store.writer.lag < 30
    database.execute("rollback")
    database.close()
    assert store.writer.drain(10)
    assert store.writer.lag == 0
    assert store.joined == [{"b": 2, "a": 3}, {"a": 2}]
    texts = store.texts()
    assert [text for text in texts if text not in ("good", "better")] == ["first", *"01234", "last"]
    assert [text for text in texts if text in ("good", "better")] == ["good", "better"]


def test_if_one_of_several_records_is_refused_the_others_are_written_one_by_one(store: Store):
    database = store.locked()
    store.put("a", "first")
    wait_for(lambda: store.writer._outage)
    for number in range(3):
        store.put_joinable("a", str(number))
    for text in ("good", None, "better"):
        store.put_joinable("b", text)
    database.execute("rollback")
    database.close()
    assert store.writer.drain(10)
    assert store.joined == []
    texts = store.texts()
    assert [text for text in texts if text not in ("good", "better")] == ["first", *"012"]
    assert [text for text in texts if text in ("good", "better")] == ["good", "better"]
    assert store.given_up == [((None,), "NOT NULL constraint failed: texts.text")]


def test_an_error_of_several_records_at_once_that_may_be_temporary_is_none_of_the_others(store: Store):
    database = store.locked()
    store.put("a", "first")
    wait_for(lambda: store.writer._outage)
    for text in ("good", "poison", "better"):
        store.put_joinable("b", text)
    database.execute("rollback")
    database.close()
    assert store.writer.drain(10)
    assert store.texts() == ["first", "good", "better"]
    assert store.given_up == [(("poison",), "database is locked")]
    assert [note for note in store.notes if note == "back"] == ["back"]


def test_a_refused_record_is_divided_and_only_the_part_at_fault_is_lost(store: Store):
    store.put("a", "first", None, "second")
    store.put("a", "third")
    assert store.writer.drain(10)
    assert store.texts() == ["first", "second", "third"]
    assert store.given_up == [((None,), "NOT NULL constraint failed: texts.text")]
    assert store.notes == []


def test_a_record_that_keeps_failing_while_others_are_taken_is_given_up(store: Store):
    store.put("a", "first", "poison", "second")
    for number in range(20):
        store.put("b", str(number))
    assert store.writer.drain(10)
    assert sorted(store.texts()) == sorted(["first", "second", *map(str, range(20))])
    assert store.given_up == [(("poison",), "database is locked")]
    assert store.notes == [], "the store was never away"


def test_a_record_that_is_alone_in_the_queue_is_given_up_if_the_store_takes_something_else(store: Store):
    store.put("a", "poison")
    assert store.writer.drain(10)
    assert store.given_up == [(("poison",), "database is locked")]


def test_a_store_that_is_away_keeps_every_record_waiting_and_is_reported_once(store: Store):
    store.put("a", "zeroth")
    assert store.writer.settle(10)
    database = store.locked()
    store.put("a", "poison", "first")
    store.put("b", "second")
    wait_for(lambda: store.writer._outage > 1)
    store.put("c", "third")
    wait_for(lambda: store.writer._outage > 2 * MISSES)  # more tries than a record that is at fault gets
    assert store.writer.waiting == 3
    assert store.given_up == []
    database.execute("rollback")
    database.close()
    assert store.writer.drain(10)
    assert sorted(store.texts()) == ["first", "second", "third", "zeroth"]
    assert store.notes == ["away: database is locked", "back"]


def test_closing_ends_after_its_patience_with_a_store_that_stays_away_and_nothing_is_written_later(store: Store):
    database = store.locked()
    store.put("a", "first")
    assert not store.writer.drain(0.3)
    store.writer.close()
    assert store.writer.waiting == 1
    store.writer._thread.join(10)
    assert not store.writer._thread.is_alive()
    database.execute("rollback")
    database.close()
    assert store.texts() == []


def test_of_records_that_replace_each_other_only_the_newest_waits(store: Store):
    database = store.locked()
    for number in range(1000):
        store.put("a", str(number), newest="table")
    assert store.writer.waiting <= 2
    database.execute("rollback")
    database.close()
    assert store.writer.drain(10)
    assert store.texts()[-1] == "999"
    assert len(store.texts()) <= 3


def test_settling_waits_until_all_is_written(store: Store):
    store.put("a", "first")
    assert store.writer.settle(10)
    assert store.texts() == ["first"]
    store.writer.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "records"]


def test_nothing_is_written_while_another_thread_goes_first(store: Store, monkeypatch: pytest.MonkeyPatch):
    precedence = Precedence()
    monkeypatch.setattr(store.writer, "_give_way", precedence.give)
    monkeypatch.setattr(Precedence, "LONGEST_SECONDS", 60.0)
    with precedence.taken():
        store.put("a", "first")
        assert not store.writer.settle(0.2)
        assert not store.texts()
    assert store.writer.drain(10)
    assert store.texts() == ["first"]
    monkeypatch.setattr(Precedence, "LONGEST_SECONDS", 0.05)
    with precedence.taken():
        store.put("a", "second")
        assert store.writer.settle(30), "a long block does not stop it"
