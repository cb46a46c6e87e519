"""The endpoints, driven by gradio's own client: what a program can ask, and what keeps a server safe."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from accel import FixedInterval, Recipe
from accel.app.settings import StudioSettings, embedded
from accel.rendering.manifest import read_manifest
from tests.app import served as app
from tests.app.served import Served

pytestmark = pytest.mark.xdist_group("page")

SNAPSHOT = Path(__file__).with_name("api.json")
SMALL = app.SMALL | {"seed": 3}  # not what settings have that say nothing


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    found = Served()
    yield found
    found.close()


def connected(served: Served, **options: Any) -> Client:
    """gradio's client gives up after five seconds without an answer, which a busy machine may need."""
    return Client(served.url, verbose=False, httpx_kwargs={"timeout": 300}, **options)


@pytest.fixture(scope="module")
def client(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """One for all tests but those that look at what is remembered of a visitor: to connect takes a second."""
    return connected(served, download_files=tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def answers(client: Client) -> list[dict[str, Any]]:
    """All that one run says, from its first step to its pair."""
    job = client.submit(SMALL, api_name="/run")
    job.result(timeout=600)
    return list(job.outputs())


@pytest.fixture(scope="module")
def made(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Its pair."""
    return dict(answers[-1]["pair"])


def last(client: Client, *values: Any, endpoint: str = "/run", **named: Any) -> dict[str, Any]:
    """The last answer of an endpoint that streams."""
    answer: dict[str, Any] = client.predict(*values, api_name=endpoint, **named)
    return answer


def test_the_endpoints_are_the_ones_that_programs_rely_on(client: Client) -> None:
    """A change here breaks other people's programs. If it is meant: write `found` to tests/app/api.json."""
    api = client.view_api(return_format="dict")
    assert isinstance(api, dict)
    found = {
        name: {
            "parameters": {
                each["parameter_name"]: [each["python_type"]["type"], each["parameter_has_default"]]
                for each in endpoint["parameters"]
            },
            "returns": [each["python_type"]["type"] for each in endpoint["returns"]],
        }
        for name, endpoint in api["named_endpoints"].items()
    }
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert api["unnamed_endpoints"] == {}


def test_run_streams_progress_and_ends_with_the_pair_and_its_files(answers: list[dict[str, Any]]) -> None:
    stages, pair = [answer["stage"] for answer in answers], answers[-1]["pair"]
    assert stages[-1] == "done" and "accelerated" in stages
    assert pair["metrics"]["psnr"] > 5 and len(pair["psnr_per_frame"]) == 5
    assert pair["computed"]["accelerated"] < pair["computed"]["baseline"]
    for side in ("baseline", "accelerated"):
        assert embedded(pair["files"][side]).prompt == SMALL["prompt"]
    assert embedded(pair["files"]["accelerated"]).recipe == StudioSettings.from_dict(SMALL).recipe


@pytest.mark.slow  # test_studio.py has it, and counts as exactly
def test_turning_a_knob_renders_only_the_accelerated_side(served: Served, client: Client, made: dict[str, Any]) -> None:
    before = served.calls
    answer = last(client, SMALL | {"recipe": "lossless"})
    assert answer["pair"]["baseline_reused"]
    computed = served.calls - before
    # And a warm-up of one or two steps, and three unaccelerated ones for the pace: a baseline would be 20 calls.
    assert 0 < computed <= answer["pair"]["computed"]["accelerated"] + 4 + 6


def test_sweep_gives_a_point_for_each_value(client: Client) -> None:
    answer = last(client, SMALL, {"cache.compute": [0.9, 0.6]}, endpoint="/sweep")
    assert [point["label"] for point in answer["points"]] == ["compute 0.9", "compute 0.6"]
    first, second = (point["metrics"]["psnr"] for point in answer["points"])
    assert first > second


def test_cost_knows_what_has_run(client: Client, made: dict[str, Any]) -> None:
    cost = client.predict(SMALL, api_name="/cost")
    assert cost["baseline_cached"] and cost["source"] == "measured"
    other = client.predict(SMALL | {"recipe": "off", "seed": 7}, api_name="/cost")
    assert not other["baseline_cached"] and other["source"] == "estimated"


def test_votes_are_kept_with_the_settings(client: Client, made: dict[str, Any]) -> None:
    vote = client.predict(made["key"], "accelerated", api_name="/vote")
    assert vote["winner"] == "accelerated" and vote["settings"]["prompt"] == SMALL["prompt"]
    votes = client.predict(api_name="/votes")
    assert votes[-1] == vote and "user" not in vote


@pytest.mark.slow  # test_security.py asks it of the server, test_studio_jobs.py of the studio
def test_history_is_the_visitors_own(served: Served, client: Client, made: dict[str, Any]) -> None:
    assert made["key"] in [run["key"] for run in client.predict(api_name="/history")]
    other = connected(served)
    assert other.predict(api_name="/history") == []
    last(other, SMALL | {"steps": 9})
    assert [run["settings"]["steps"] for run in other.predict(api_name="/history")] == [9]
    assert 9 not in [run["settings"]["steps"] for run in client.predict(api_name="/history")]


def test_pair_of_an_earlier_run(client: Client, made: dict[str, Any]) -> None:
    assert client.predict(made["key"], api_name="/pair")["psnr_per_frame"] == made["psnr_per_frame"]


def test_restore_reads_the_settings_out_of_a_file(client: Client, made: dict[str, Any], tmp_path: Path) -> None:
    settings = client.predict(handle_file(made["files"]["accelerated"]), api_name="/restore")
    assert StudioSettings.from_dict(settings) == StudioSettings.from_dict(SMALL)
    written = tmp_path / "mine.json"
    written.write_text(json.dumps(SMALL))
    assert client.predict(handle_file(str(written)), api_name="/restore")["steps"] == 10


def test_manifest_is_what_render_reads(client: Client) -> None:
    path = client.predict(SMALL, {"cache.compute": [0.5, 0.3]}, api_name="/manifest")
    _, _, lines, problems = read_manifest(path)
    assert len(lines) == 2 and problems == []


def test_code_to_take_along(client: Client) -> None:
    code = client.predict(SMALL, api_name="/code")
    compile(code["python"], "taken.py", "exec")
    assert code["command"].startswith("accel ") or "accel " in code["command"]


def test_what_there_is_to_choose_from(client: Client) -> None:
    assert "pocket:video" in client.predict(api_name="/models")
    assert set(client.predict(api_name="/presets")) == {"lossless", "balanced", "fast", "turbo"}
    names = [knob["name"] for knob in client.predict(api_name="/methods")["cache"]["EasyCache"]]
    assert "threshold" in names


def test_cancel_stops_the_work_of_this_client_only(served: Served, client: Client) -> None:
    other = connected(served)
    with served.slowly(0.2):
        job = client.submit(SMALL | {"seed": 11, "steps": 100}, api_name="/run")
        begun = served.calls
        while served.calls < begun + 6:
            time.sleep(0.05)
        assert other.predict(api_name="/cancel") == 0
        assert client.predict(api_name="/cancel") == 1
        before = served.calls
        with pytest.raises(AppError, match="cancelled"):
            job.result(timeout=300)
        assert served.at_rest() - before <= 2


def test_a_client_that_goes_away_stops_its_work(served: Served, client: Client) -> None:
    with served.slowly(0.2):
        job = client.submit(SMALL | {"seed": 12, "steps": 100}, api_name="/run")
        begun = served.calls
        while served.calls < begun + 6:
            time.sleep(0.05)
        job.cancel()
        before = served.calls
        assert served.at_rest() - before <= 8  # the server notices between two answers


@pytest.mark.slow  # test_studio_jobs.py has it of the studio
@pytest.mark.parametrize("tuner", ["of a test", pytest.param("real", marks=pytest.mark.slow)])
def test_tune_ends_with_a_pair(client: Client, tuner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/tuning has the real one on its own."""
    if tuner == "of a test":
        recipe = Recipe(cache=FixedInterval(2, min_steps=4), evidence={"met": True})
        monkeypatch.setattr("accel.tuning.tune", lambda *_, **__: recipe)
    tiny = SMALL | {"steps": 12, "width": 16, "height": 16, "frames": 1}
    answer = last(client, tiny, endpoint="/tune", min_psnr=5.0, minutes=2.0)
    assert answer["stage"] == "done" and answer["pair"]["metrics"]["psnr"] > 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 200, not 0"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"width": 100_000}, "width must be a whole number from"),
        ({"recipe": "warp"}, "there is no preset 'warp'"),
        ({"recipe": {"cache": {"method": "EasyCache", "threshold": -1}}}, "threshold must be a number from 0"),
        ({"model": "/etc"}, "this server may not read '/etc'"),
        ({"model": "someone/something"}, "loads no models of the hub"),
        ({"colour": "red"}, "'colour' is not a field"),
    ],
)
def test_bad_input_is_one_sentence(client: Client, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError) as error:
        last(client, SMALL | changes)
    assert sentence.lower() in str(error.value).lower()
    assert "Traceback" not in str(error.value)


def test_a_file_without_settings_is_refused(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(AppError, match="holds no settings"):
        client.predict(handle_file(str(path)), api_name="/restore")


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/pyproject.toml"])
def test_no_file_but_the_studios_own_is_served(served: Served, path: str) -> None:
    asked = path.format(root=Path(__file__).parents[2])
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{served.url}gradio_api/file={asked}", timeout=300)
    assert error.value.code in (403, 404)


def test_the_server_opens_no_file_that_a_client_names(served: Served, tmp_path: Path) -> None:
    """A raw request, because gradio's client would upload the file first."""
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(SMALL))
    asked = json.dumps({"data": [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}]}).encode()
    call = f"{served.url}gradio_api/call/restore"
    request = urllib.request.Request(call, asked, {"Content-Type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=300))["event_id"]
    answer = urllib.request.urlopen(f"{call}/{event}", timeout=300).read().decode()
    assert "event: error" in answer and SMALL["prompt"] not in answer


def test_it_listens_on_this_machine_only(served: Served) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    assert served.blocks.server_name == "127.0.0.1"
    assert served.blocks.share is False
    assert served.blocks.max_file_size is not None
    assert served.blocks.allowed_paths == [str(served.studio.clips)]
