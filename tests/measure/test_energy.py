"""Energy from RAPL's files, and nothing where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel.measure import energy
from accel.measure.energy import EnergyMeter


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages, of which one has a core domain that the package's counter includes."""
    monkeypatch.setattr(energy, "_gpus", lambda: [])
    for zone in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        (tmp_path / zone).mkdir()
        write(tmp_path / zone, 5_000_000)
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000")
    return tmp_path


def write(zone: Path, microjoules: int) -> None:
    (zone / "energy_uj").write_text(f"{microjoules}\n")


def test_packages_are_added_and_their_parts_are_not(rapl: Path) -> None:
    meter = EnergyMeter(rapl)
    meter.start()
    write(rapl / "intel-rapl:0", 7_000_000)
    write(rapl / "intel-rapl:0:0", 6_900_000)
    write(rapl / "intel-rapl:1", 5_500_000)
    assert meter.stop() == pytest.approx(2.5)


def test_a_counter_that_began_anew_is_unrolled(rapl: Path) -> None:
    meter = EnergyMeter(rapl)
    meter.start()
    write(rapl / "intel-rapl:0", 1_000_000)
    assert meter.stop() == pytest.approx(6.0)


def test_without_counters_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_gpus", lambda: [])
    meter = EnergyMeter(tmp_path)
    meter.start()
    assert not meter.available and meter.stop() is None


def test_gpus_count_joules_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = iter([100.0, 130.0])
    monkeypatch.setattr(energy, "_gpus", lambda: [lambda: next(counted)])
    meter = EnergyMeter(tmp_path)
    meter.start()
    assert meter.stop() == 30.0
