"""The usual duration of an entrypoint is the median of its last runs."""

from almenara_ray.durations import Durations, normalize_entrypoint


def test_durations_combine_runs_that_differ_in_ids_and_dates() -> None:
    first = "python run.py --job 6f9619ff-8b86-d011-b42d-00c04fc964ff --day 2026-01-02"
    other = "python  run.py --job 00000000-8b86-d011-b42d-00c04fc964ff --day 2026-03-04"
    assert normalize_entrypoint(first) == normalize_entrypoint(other)
    assert normalize_entrypoint("train --epochs 3") != normalize_entrypoint("train --epochs 30")
    assert normalize_entrypoint("evaluate --story US-101") == normalize_entrypoint(
        "evaluate --story US-102"
    )
    durations = Durations()
    assert durations.median(first) is None
    for seconds in (10.0, 30.0, 20.0):
        durations.add(first, seconds)
    assert durations.median(other) == 20.0
    for seconds, epochs in ((10.0, 100), (12.0, 100), (30.0, 300), (32.0, 300)):
        durations.add(f"train --epochs {epochs}", seconds)
    assert durations.median("train --epochs 100") == 11.0
    assert durations.median("train --epochs 200") == 21.0
    for number in range(700):
        durations.add(f"other {number} x", 1.0)
    assert durations.median(first) is None
    assert len(durations.runs) == 500
