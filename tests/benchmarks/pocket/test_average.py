import pytest
import torch

from accel.pocket.pipeline import WanPocketPipeline
from benchmarks.pocket import average
from benchmarks.pocket.train_video import Size, Trainer, fit_autoencoder

SMALL = (Size(32, 32, 5, batch=2, begin=0.0, every=1),)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    autoencoder = fit_autoencoder(4, 4)
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        Trainer(autoencoder, 32, 1, 1e-3, "cpu", pool=2).export(folder)
    return folders


def weights(folder) -> dict[str, torch.Tensor]:
    return WanPocketPipeline.from_folder(folder).transformer.state_dict()


def test_the_mean_is_a_model_beside_which_each_part_is_judged(parts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(average, "SIZES", SMALL)
    average.main([*map(str, parts), "--out", str(tmp_path), "--batches", "2"])
    first, second, mean = map(weights, (*parts, tmp_path))
    for name, value in mean.items():
        assert torch.allclose(value, (first[name] + second[name]) / 2, atol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"32x32, {folder}" for folder in (*parts, tmp_path)]
    assert len({line.partition(":")[2] for line in lines}) == 3  # each has a loss of its own


def test_a_part_is_judged_on_the_same_clips_and_noise_each_time(parts):
    pipe = WanPocketPipeline.from_folder(parts[0])
    form = average.colour_form(pipe.vae)
    first, second = (average.losses(pipe.transformer, average.unseen(pipe, SMALL[0], 2), form) for _ in range(2))
    assert first == second
    assert 0.0 < first[1] < 10.0 * first[0]
