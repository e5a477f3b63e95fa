"""Current state: resources by kind and namespace, and their samples."""

from hypothesis import given
from hypothesis import strategies as st

from almenara.bus import Record
from almenara.signals import Resource, Sample, Signal
from almenara.state.resources import Resources


def with_signals(*signals: Signal) -> Resources:
    resources = Resources()
    resources.accept([Record(number, it) for number, it in enumerate(signals, 1)])
    return resources


@given(
    published=st.lists(
        st.tuples(
            st.sampled_from(("a", "a-b", "a/b", "ab", "", "b")), st.sampled_from("xyz"),
            st.booleans(),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_resources_of_a_kind_are_sorted_and_selected_by_namespace(
    published: list[tuple[str, str, bool]],
) -> None:
    resources, known = Resources(), dict[tuple[str, str], bool]()
    for number, (namespace, name, gone) in enumerate(published, 1):
        it = Resource(kind="pod", namespace=namespace, name=name, deleted=gone)
        resources.accept([Record(number, it)])
        known[namespace, name] = gone
        # Asked in between, so that what is sorted already is up to date all the same.
        found = [(it.namespace, it.name, it.deleted) for it in resources.of_kind("pod")]
        assert found == [(*key, known[key]) for key in sorted(known)]
        for wanted in {space for space, _ in known} - {""}:
            inside = [it.name for it in resources.of_kind("pod", wanted)]
            assert inside == sorted(name for space, name in known if space == wanted)


def test_resources_return_newest_value_of_every_metric() -> None:
    it = Resource(kind="pod", namespace="shop", name="one")
    more = {"kind": "pod", "namespace": "shop", "name": "one"}
    resources = with_signals(
        it,
        *(Sample(**more, metric="cpu", value=float(number), time=number) for number in range(200)),
        Sample(**more, metric="memory", value=7.0),
    )

    assert resources.metrics(it) == {"cpu": 199.0, "memory": 7.0}
    assert resources.latest(*it.key, "cpu") == 199.0
    assert resources.series(*it.key, "cpu")[0] == (80, 80.0)
    assert resources.series(*it.key, "none") == []
    assert resources.latest("pod", "shop", "two", "cpu") is None
