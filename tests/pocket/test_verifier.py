import numpy as np
import pytest
import torch
from PIL import Image

from accel.pocket import load, verify
from accel.pocket.scenes import COLOURS, MOTIONS, SHAPES, Caption, captions, render, sample_scene
from accel.pocket.verifier import read

TEXT = "a red circle moves left on a dark background"


def clip(text: str, seed: int = 0, **size: int) -> np.ndarray:
    return render(sample_scene(np.random.default_rng(seed), Caption.parse(text)), **size)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Caption, np.ndarray]]:
    """Every 37th caption, which covers each word of the grammar, with a scene of its own."""
    rng = np.random.default_rng(99)
    return [(caption, render(sample_scene(rng, caption))) for caption in captions()[::37]]


def test_rendered_clips_are_correct(drawn):
    wrong = [str(verify(frames, str(caption))) for caption, frames in drawn if not verify(frames, str(caption)).correct]
    assert len(wrong) <= 0.01 * len(drawn), wrong


def test_clips_that_went_through_the_autoencoder_are_correct(drawn):
    autoencoder = load("video").vae
    videos = torch.from_numpy(np.stack([frames for _, frames in drawn])).permute(0, 4, 1, 2, 3) * 2 - 1
    decoded = autoencoder.decode(autoencoder.encode(videos).latent_dist.mode()).sample / 2 + 0.5
    found = [read(video) for video in decoded.permute(0, 2, 3, 4, 1)]
    wrong = [(str(c), f) for (c, _), f in zip(drawn, found, strict=True) if list(f.values()) != list(vars(c).values())]
    assert len(wrong) <= 0.02 * len(drawn), wrong


@pytest.mark.part(6)
@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        *[("colour", TEXT.replace("red", word)) for word in COLOURS if word != "red"],
        *[("shape", TEXT.replace("circle", word)) for word in SHAPES if word != "circle"],
        *[("motion", TEXT.replace("moves left", word)) for word in MOTIONS if word != "moves left"],
        *[("background", TEXT.replace("dark", word)) for word in ("light", "striped", "dotted")],
    ],
)
def test_a_caption_with_one_wrong_word_fails_in_that_attribute_alone(attribute, text):
    result = verify(clip(TEXT), text)
    assert not result.correct
    assert [name for name, match in result.matches.items() if not match] == [attribute]
    assert f"{attribute} {result.attributes[attribute]} instead of {result.expected[attribute]}" in str(result)


def test_every_form_of_frames_reads_the_same():
    frames = clip(TEXT)
    bytes_ = (frames * 255).round().astype(np.uint8)
    forms = [frames, bytes_, torch.from_numpy(frames), [Image.fromarray(frame) for frame in bytes_]]
    results = [verify(form, TEXT) for form in forms]
    assert all(result.correct for result in results)
    assert str(results[0]) == "correct: colour red, shape circle, motion moves left, background dark"


@pytest.mark.parametrize("size", [{"height": 96, "width": 96}, {"height": 128, "width": 128, "frames": 33}])
def test_other_sizes_and_lengths(size):
    for seed, text in enumerate([TEXT, "a blue cross stays still on a striped background"]):
        assert verify(clip(text, seed, **size), text).correct


def test_the_clip_backwards_moves_the_other_way():
    assert read(clip(TEXT)[::-1])["motion"] == "moves right"
    assert read(clip(TEXT)[:, :, ::-1])["motion"] == "moves right"
    assert read(clip(TEXT).swapaxes(1, 2))["motion"] == "moves up"


def on_ground(ground: np.ndarray) -> np.ndarray:
    """A green disc that stays on a still grey ground (64, 64)."""
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(x - 20, y - 40) < 12)[..., None]
    frame = np.where(disc, np.asarray(COLOURS["green"]), ground[..., None]).astype(np.float32)
    return np.repeat(frame[None], 5, axis=0)


@pytest.mark.parametrize("seed", range(4))
def test_patterns_need_not_be_regular(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    bend = 3 * np.sin(2 * np.pi * (y / 50 + rng.uniform()))
    stripes = 0.5 + 0.15 * np.tanh(2 * np.sin((x + bend) / 2.3))
    centres = np.mgrid[6:64:14, 6:64:14].reshape(2, -1).T + rng.uniform(-2.5, 2.5, (25, 2))
    dots = 0.35 + 0.3 * (np.min([np.hypot(y - a, x - b) for a, b in centres], axis=0) < 4.2)
    assert read(on_ground(stripes))["background"] == "striped"
    assert read(on_ground(dots))["background"] == "dotted"


@pytest.mark.parametrize("seed", range(4))
def test_cloudy_or_even_middle_grey_is_no_known_background(seed):
    noise = np.random.default_rng(seed).standard_normal((64, 64))
    offsets = [(i, j) for i in range(-5, 6) for j in range(-5, 6)]
    cloud = sum(np.roll(noise, offset, (0, 1)) * np.exp(-(offset[0] ** 2 + offset[1] ** 2) / 12) for offset in offsets)
    assert read(on_ground(np.clip(0.5 + 0.15 * cloud / cloud.std(), 0, 1)))["background"] is None
    assert read(on_ground(np.full((64, 64), 0.5)))["background"] is None


def test_nothing_coloured_shows_no_object():
    grey = np.full((17, 64, 64, 3), 0.15, np.float32)
    assert read(grey) == {"colour": None, "shape": None, "motion": None, "background": "dark"}
    assert not verify(grey, TEXT).correct


def test_noise_is_not_correct():
    noise = np.random.default_rng(0).uniform(size=(17, 64, 64, 3)).astype(np.float32)
    found = read(noise)
    assert found["colour"] is None
    assert found["shape"] is None


def test_a_long_bar_is_no_known_shape():
    frames = np.full((17, 64, 64, 3), 0.15, np.float32)
    frames[:, 28:36, 12:52] = COLOURS["red"]
    assert read(frames)["shape"] is None


def test_one_frame_tells_no_motion():
    assert read(clip(TEXT, frames=1))["motion"] is None


def test_bad_input_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="cannot read 'a corgi surfing'"):
        verify(clip(TEXT), "a corgi surfing")
    with pytest.raises(ValueError):
        verify(clip(TEXT) * 3, TEXT)
