"""Stored samples: `/api/samples`, and Prometheus' API with a real client of it."""

import csv
import io
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_api_client import PrometheusConnect

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.signals import Resource, Sample, now

class Load:
    name = "load"

    async def run(self, publish):
        start = now() // 60_000_000 * 60_000_000 - 600_000_000
        await publish([
            signal
            for pod, namespace in (("web-1", "shop"), ("web-2", "shop"), ("db", "data"))
            for signal in (
                Resource(kind="pod", name=pod, namespace=namespace, status="Running"),
                *(Sample(kind="pod", name=pod, namespace=namespace, metric=metric, unit=unit,
                         value=value(step), time=start + step * 15_000_000)
                  for step in range(40)
                  for metric, unit, value in (
                      ("cpu", "1", lambda step: 0.25),
                      ("requests_total", "", lambda step: 30.0 * step),
                      ("=formula", "", lambda step: 1.0),
                  )),
            )
        ])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]
"""


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("samples")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(PLUGIN)
    with Almenara(folder / "almenara", plugins_dir=str(plugins)) as running:
        wait_until(lambda: len(running.get("/api/samples?metric=cpu")["series"]) == 3, "samples")
        yield running


def evaluate(almenara: Almenara, path: str, **parameters: str) -> Any:
    return almenara.get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")["data"]


def find_start(almenara: Almenara) -> float:
    """When the samples start, in seconds."""
    (series,) = almenara.get("/api/samples?metric=cpu&name=db")["series"]
    return float(series["points"][0][0]) / 1000


def refuse(almenara: Almenara, path: str) -> tuple[int, Any]:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(almenara.url + path, timeout=10)
    return raised.value.code, json.loads(raised.value.read())


def test_samples_are_returned_in_steps(almenara: Almenara) -> None:
    answer = almenara.get("/api/samples?metric=cpu&namespace=shop&step=1m&since=30m&function=sum")
    assert answer["step"] == 60.0
    assert [series["name"] for series in answer["series"]] == ["web-1", "web-2"]
    for series in answer["series"]:
        assert series["unit"] == "1"
        assert [value for _, value in series["points"]] == [1.0] * 10
    rate = almenara.get("/api/samples?metric=requests_total&name=d*&step=1m&function=rate")
    assert [value for _, value in rate["series"][0]["points"]] == [2.0] * 10
    limited = almenara.get("/api/samples?metric=cpu&limit=2")
    assert (len(limited["series"]), limited["more"]) == (2, 1)
    assert almenara.get("/api/samples?metric=cpu&until=1h&since=2h")["series"] == []


def test_metrics_report_the_sample_store(almenara: Almenara) -> None:
    names = {line.split("{")[0].split(" ")[0] for line in almenara.text("/metrics").splitlines()}
    assert {
        "almenara_samples_waiting", "almenara_sample_series", "almenara_sample_store_bytes",
        "almenara_sample_store_write_failed",
    } <= names  # fmt: skip


def test_samples_are_exported_as_a_table_without_formulas(almenara: Almenara) -> None:
    table = [*csv.DictReader(io.StringIO(almenara.text("/api/samples.csv?name=web-1&step=10m")))]
    assert {row["metric"] for row in table} == {"cpu", "requests_total", "'=formula"}
    assert {row["value"] for row in table if row["metric"] == "cpu"} == {"0.25"}
    assert table[0]["time"].endswith("Z")


@pytest.mark.parametrize("path", ["/api/samples.csv", "/api/changes.csv", "/api/events.csv"])
def test_content_type_of_a_table_has_its_charset_once(almenara: Almenara, path: str) -> None:
    with urllib.request.urlopen(f"{almenara.url}{path}") as response:
        assert response.headers["content-type"] == "text/csv; charset=utf-8"


@pytest.mark.parametrize(
    "query",
    [
        "since=x",
        "since=5m&until=10m",
        "step=x",
        "function=median",
        "function=",
        "sorce=a",
        "limit=0",
    ],
)
def test_wrong_parameter_of_samples_is_a_problem(almenara: Almenara, query: str) -> None:
    status, problem = refuse(almenara, f"/api/samples?{query}")
    assert status == 400
    assert problem["detail"]


def test_client_of_prometheus_reads_samples(almenara: Almenara) -> None:
    client = PrometheusConnect(url=almenara.url)
    assert set(client.all_metrics()) == {"cpu", "requests_total", "=formula"}
    assert client.get_label_names() == ["__name__", "kind", "name", "namespace", "origin"]
    assert client.get_label_values("name") == ["db", "web-1", "web-2"]
    start = find_start(almenara)
    first, last = (datetime.fromtimestamp(start + after, UTC) for after in (240, 420))
    labels = client.get_series(first, last, params={"match[]": 'cpu{namespace="shop"}'})
    assert [each["name"] for each in labels] == ["web-1", "web-2"]
    (total,) = client.custom_query("sum(cpu)", params={"time": start + 300})
    assert float(total["value"][1]) == 0.75
    by_namespace = client.custom_query_range(
        "sum by (namespace) (rate(requests_total[2m]))",
        start_time=first, end_time=last, step="60s",
    )  # fmt: skip
    values = {series["metric"]["namespace"]: series["values"] for series in by_namespace}
    assert sorted(values) == ["data", "shop"]
    assert [value for _, value in values["shop"]] == ["4"] * 4
    assert [value for _, value in values["data"]] == ["2"] * 4
    stored = client.get_metric_range_data("cpu", {"name": "db"}, first, last)
    assert {value for series in stored for _, value in series["values"]} == {"0.25"}


def test_query_may_be_a_form(almenara: Almenara) -> None:
    # Without sign-in a form needs the token of a page, as any other.
    body = urllib.parse.urlencode({"query": "1 + 1"}).encode()
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{almenara.url}/api/v1/query", body, timeout=10)
    assert json.loads(raised.value.read())["errorType"] == "forbidden"


def test_form_of_a_token_is_evaluated(tmp_path: Path) -> None:
    config = {"auth": {"mode": "token"}}
    with Almenara(tmp_path, config=config) as almenara:
        done = almenara.command("access", "rotate")
        token = done.stdout.strip()
        body = urllib.parse.urlencode({"query": "1 + 1", "time": "1800000000.5"}).encode()
        request = urllib.request.Request(
            f"{almenara.url}/api/v1/query", body, {"authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.loads(response.read()) == {
                "status": "success",
                "data": {"resultType": "scalar", "result": [1800000000.5, "2"]},
            }
        assert refuse(almenara, "/api/v1/query?query=1")[1]["errorType"] == "unauthorized"


def test_numbers_have_a_value_at_each_step(almenara: Almenara) -> None:
    data = evaluate(almenara, "query_range", query="-1/0", start="10", end="12", step="1")
    assert data == {
        "resultType": "matrix",
        "result": [{"metric": {}, "values": [[10.0, "-Inf"], [11.0, "-Inf"], [12.0, "-Inf"]]}],
    }


def test_arithmetic_and_functions_drop_the_name_of_the_metric(almenara: Almenara) -> None:
    at = str(find_start(almenara) + 300)
    data = evaluate(almenara, "query", query='cpu{name="db"} * 100', time=at)
    assert data["result"][0]["metric"] == {
        "kind": "pod", "namespace": "data", "name": "db", "origin": "load",
    }  # fmt: skip
    assert data["result"][0]["value"][1] == "25"
    status, problem = refuse(
        almenara, f"/api/v1/query?query=rate({{kind=%22pod%22}}[5m])&time={at}"
    )
    assert (status, problem["errorType"]) == (400, "bad_data")
    assert "name one metric" in problem["error"]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("query", "query is missing"),
        ("query?query=sum(", "1:5: parse error"),
        ("query?query=cpu&time=x", "time must be seconds"),
        ("query?query=cpu&time=1e300", "time is out of range"),
        ("query_range?query=cpu[5m]&start=0&end=1&step=1", "needs a function"),
        ("query?query=cpu%2Bcpu", "one side must be a number"),
        ("query_range?query=cpu&start=0&end=1", "step is missing"),
        ("query_range?query=cpu&start=2&end=1&step=1", "request: use start=1.000&end=2.000."),
        ("series?match[]=cpu&start=2&end=1", "request: use start=1.000&end=2.000."),
        ("query_range?query=cpu&start=0&end=1&step=0", "longer than 0"),
        ("query_range?query=cpu&start=0&end=99999&step=1", "more than 11,000 steps"),
        ("series", "match[] is missing"),
        ("series?match[]=1", "is not a selector"),
    ],
)
def test_wrong_query_has_an_error_as_of_prometheus(
    almenara: Almenara, path: str, error: str
) -> None:
    status, problem = refuse(almenara, f"/api/v1/{path}")
    assert (status, problem["status"], problem["errorType"]) == (400, "error", "bad_data")
    assert error in problem["error"]
