"""Current state: resources by kind and namespace, and their samples."""

from hypothesis import given, strategies as st

from almenara.bus import Record
from almenara.scope import FULL_SCOPE, Grant, build_scope
from almenara.signals import Resource, Sample, Signal
from almenara.state.resources import Resources

JOBS_ONLY = build_scope([Grant(sources=("job",))], access_log=False)


def with_signals(*signals: Signal) -> Resources:
    resources = Resources()
    resources.accept([Record(number, each) for number, each in enumerate(signals, 1)])
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
    for number, (namespace, name, deleted) in enumerate(published, 1):
        each = Resource(kind="pod", namespace=namespace, name=name, deleted=deleted)
        resources.accept([Record(number, each)])
        known[namespace, name] = deleted
        # Queried in between, so that what is sorted already is up to date all the same.
        listed = [(each.namespace, each.name, each.deleted) for each in resources.of_kind("pod")]
        assert listed == [(*key, known[key]) for key in sorted(known)]
        for selected in {space for space, _ in known} - {""}:
            inside = [each.name for each in resources.of_kind("pod", selected)]
            assert inside == sorted(name for space, name in known if space == selected)


def test_resources_return_newest_value_of_every_metric() -> None:
    each = Resource(kind="pod", namespace="shop", name="one")
    more = {"kind": "pod", "namespace": "shop", "name": "one"}
    resources = with_signals(
        each,
        *(Sample(**more, metric="cpu", value=float(number), time=number) for number in range(200)),
        Sample(**more, metric="memory", value=7.0),
    )

    assert resources.metrics(each) == {"cpu": 199.0, "memory": 7.0}
    assert resources.latest(*each.key, "cpu") == 199.0
    assert resources.series(*each.key, "cpu")[0] == (80, 80.0)
    assert resources.series(*each.key, "none") == []
    assert resources.latest("pod", "shop", "two", "cpu") is None


def test_page_walks_through_all_visible_resources() -> None:
    resources = with_signals(
        *(
            Resource(kind=kind, namespace=namespace, name=str(number), origin=f"{kind}/eu")
            for kind in ("pod", "node", "job")
            for namespace in ("", "a", "b")
            for number in range(7)
        )
    )
    for scope, kinds in ((FULL_SCOPE, 3), (JOBS_ONLY, 1)):
        narrowed = resources.within(scope)
        for kind in (None, "job"):
            walked: list[Resource] = []
            while page := narrowed.page(kind, walked[-1].key if walked else None, 4):
                walked += page
            assert walked == (narrowed.all() if kind is None else narrowed.of_kind(kind))
            assert len(walked) == 21 * (kinds if kind is None else 1)


def test_samples_of_a_hidden_origin_are_hidden_whoever_owns_the_resource() -> None:
    key = {"kind": "pod", "namespace": "shop", "name": "one"}
    resources = with_signals(
        Resource(**key, origin="job/eu", state={"labels": {"app": "web"}}),
        Sample(**key, metric="cpu", value=1.0, time=1, origin="job/eu"),
        Sample(**key, metric="cpu", value=99.0, time=2, origin="vault"),
        Sample(**key, metric="secret", value=7.0, time=2, origin="vault"),
    )
    pod = ("pod", "shop", "one")
    assert resources.latest(*pod, "cpu") == 99.0
    assert resources.latest(*pod, "secret") == 7.0
    narrowed = resources.within(JOBS_ONLY)
    assert narrowed.latest(*pod, "cpu") == 1.0
    assert narrowed.series(*pod, "cpu") == [(1, 1.0)]
    assert narrowed.latest(*pod, "secret") is None
    assert narrowed.with_metric("secret") == []
    assert [each.origin for each in narrowed.with_metric("cpu")] == ["job/eu"]
    (resource,) = narrowed.all()
    assert narrowed.metrics(resource) == {"cpu": 1.0}
    labelled = build_scope([Grant(labels=(("app", "web"),))], access_log=False)
    assert resources.within(labelled).latest(*pod, "cpu") == 99.0


def test_resources_of_a_source_that_does_not_run_are_unknown_and_keep_their_state() -> None:
    resources = with_signals(
        Resource(kind="pod", name="a", status="ok", state={"n": 1}, origin="one"),
        Resource(kind="pod", name="b", status="ok", origin="other"),
        Sample(kind="pod", name="a", metric="m", value=1.0, origin="one"),
    )
    resources.unproven_sources = lambda: {"one": 7}
    within = resources.within(JOBS_ONLY)
    assert within.unproven_sources() == {"one": 7}
    listed = (
        resources.of_kind("pod")[0], resources.get("pod", "", "a"), resources.with_metric("m")[0],
        resources.page(None, None, 10)[0],
    )  # fmt: skip
    for resource in listed:
        assert resource is not None
        assert (resource.status, resource.severity.name) == ("unknown", "WARN")
        assert resource.state == {
            "n": 1, "last_status": "ok", "stale_since": 7, "reason": "source one does not run",
        }  # fmt: skip
    assert resources.of_kind("pod")[1].status == "ok"
    resources.unproven_sources = dict
    assert resources.of_kind("pod")[0].status == "ok"


def test_what_is_derived_from_events_of_a_source_that_does_not_run_is_unknown() -> None:
    def derived(name: str, origin: object) -> Resource:
        state = {"observed_by": origin}
        return Resource(kind="agent", name=name, status="ok", state=state, origin="agents")

    resources = with_signals(derived("a", "nats/ORDERS"), derived("b", "other"), derived("c", 7))
    resources.unproven_sources = lambda: {"nats": 7}
    assert [each.status for each in resources.of_kind("agent")] == ["unknown", "ok", "ok"]


def alert(name: str, origin: str, **state: str) -> Resource:
    return Resource(kind="almenara.alert", namespace="rule", name=name, origin=origin, state=state)


def test_alert_does_not_name_a_hidden_one_that_inhibits_it() -> None:
    resources = with_signals(
        alert("hidden", "node"), alert("visible", "job"),
        alert("a", "job", note="x", inhibited_by="rule/hidden"),
        alert("b", "job", inhibited_by="rule/visible"),
        alert("c", "job", inhibited_by="rule/missing"),
        Resource(kind="job", name="j", origin="job", state={"inhibited_by": "rule/hidden"}),
    )  # fmt: skip
    scoped = resources.within(JOBS_ONLY)
    states = {"a": {"note": "x"}, "b": {"inhibited_by": "rule/visible"}, "c": {}, "visible": {}}
    kind = "almenara.alert"
    single = [scoped.get(kind, "rule", name) for name in states]
    listed = [scoped.of_kind(kind), scoped.page(kind, None, 10), filter(None, single)]
    assert [{each.name: each.state for each in result} for result in listed] == [states] * 3
    job = scoped.get("job", "", "j")
    assert job is not None
    assert job.state == {"inhibited_by": "rule/hidden"}
    assert {each.name: each.state.get("inhibited_by") for each in resources.of_kind(kind)} == {
        "a": "rule/hidden", "b": "rule/visible", "c": "rule/missing", "hidden": None,
        "visible": None,
    }  # fmt: skip
