"""Series are found among many, and what a viewer may not see does not count."""

import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from almenara.errors import LimitExceeded
from almenara.scope import Grant, Scope, build_scope
from almenara.signals import Resource
from almenara.state.sample_history import SampleHistory, SeriesMatch, match_patterns
from almenara.state.sample_schema import SeriesName, StoredSeries
from almenara.units import MILLISECOND
from support.moved_clock import MovedClock
from support.sample_runs import START, Run, make_sample, running

pytestmark = pytest.mark.anyio

MANY = 60_000
SPAN = (START, START + 60_000)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """A store with 60,000 series of the namespace shop, 200 of data, and few of no namespace."""
    folder: Path = tmp_path_factory.mktemp("many")
    async with running(folder, MovedClock(START * MILLISECOND)) as started:
        for first in range(0, MANY, 10_000):
            await started.publish(
                *(
                    make_sample(START, 1.0, f"n{number:05}", metric=f"m{number % 3}")
                    for number in range(first, first + 10_000)
                )
            )
        await started.store.flush()
        await started.publish(
            *(make_sample(START, 1.0, f"d{number:03}", namespace="data") for number in range(200)),
            make_sample(START, 1.0, "data", kind="kube.namespace", namespace=""),
            make_sample(START, 1.0, "node", kind="node", namespace=""),
            # Stored already, and once more in memory.
            make_sample(START + 1_000, 2.0, "n00000", metric="m0"),
        )
        yield started


def see(run: Run, scope: Scope) -> SampleHistory:
    return run.history.within(run.resources.within(scope))


DATA = build_scope([Grant(namespaces=("data",))], access_log=False)


async def test_names_select_series_among_many(run: Run) -> None:
    for match in (
        SeriesMatch(name="n59999"),
        SeriesMatch(test=lambda name: name.name == "n59999"),
        match_patterns({"namespace": "sh*", "name": "n5999*", "metric": "m2"},
                       lambda name: name.name.endswith("9")),
    ):  # fmt: skip
        (series,) = await run.history.find(match, *SPAN)
        assert series.name == SeriesName("m2", "pod", "shop", "n59999", "test")
    assert await run.history.find(match_patterns({"namespace": "sh*", "name": "d*"}), *SPAN) == []
    assert len(await run.history.find(SeriesMatch(metric="m0"), *SPAN)) == 20_000


async def test_more_series_than_a_query_may_have_are_refused(run: Run) -> None:
    with pytest.raises(LimitExceeded, match="more than 50,000 series match; narrow them by kind"):
        await run.history.find(SeriesMatch(namespace="shop"), *SPAN)


async def test_series_are_summarized_in_a_reading_thread_once_each(run: Run) -> None:
    threads = set()

    def count(all_series: Iterable[StoredSeries]) -> Counter[tuple[str, str]]:
        threads.add(threading.current_thread())
        return Counter((each.name.namespace, each.name.metric) for each in all_series)

    assert await run.history.collect(SeriesMatch(), *SPAN, count) == {
        ("shop", "m0"): 20_000, ("shop", "m1"): 20_000, ("shop", "m2"): 20_000,
        ("data", "cpu"): 200, ("", "cpu"): 2,
    }  # fmt: skip
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    "scope",
    [
        DATA,
        build_scope([Grant(namespaces=("dat*",))], access_log=False),
        build_scope([Grant(namespaces=("data",))], access_log=True),
        build_scope([Grant(namespaces=("data",)), Grant(sources=("other",))], access_log=False),
        build_scope([Grant()], access_log=False, guarded=["test"], namespaces=["data"]),
    ],
)
async def test_what_a_scope_hides_does_not_count(run: Run, scope: Scope) -> None:
    series = await see(run, scope).find(SeriesMatch(), *SPAN)
    names = [each.name.name for each in series]
    # The namespace itself is before the pods in it.
    assert names == ["data", *(f"d{number:03}" for number in range(200))]
    assert await see(run, scope).find(SeriesMatch(name="n00000"), *SPAN) == []


async def test_alert_of_a_visible_namespace_is_not_left_out(run: Run) -> None:
    await run.publish(
        Resource(kind="almenara.alert", namespace="rule", name="a", state={"namespace": "data"},
                 time=START * MILLISECOND),
        make_sample(START, 1.0, "a", kind="almenara.alert", namespace="rule", metric="alerts"),
        make_sample(START, 1.0, "b", kind="almenara.alert", namespace="rule", metric="alerts"),
    )  # fmt: skip
    series = await see(run, DATA).find(SeriesMatch(metric="alerts"), *SPAN)
    assert [each.name.name for each in series] == ["a"]


def test_needed_namespaces_are_those_of_all_grants() -> None:
    assert DATA.needed_namespaces() == {"data"}
    two = build_scope([Grant(namespaces=("a", "b")), Grant(namespaces=("c",))], access_log=False)
    assert two.needed_namespaces() == {"a", "b", "c"}
    for grants, access_log in (
        ([Grant(namespaces=("a",)), Grant(sources=("x",))], False),
        ([Grant(namespaces=("a*",))], False),
        ([Grant(namespaces=("a",))], True),
    ):
        assert build_scope(grants, access_log=access_log).needed_namespaces() is None
    assert build_scope([], access_log=False).needed_namespaces() == set()
