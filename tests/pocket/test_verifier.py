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
    """Every thirteenth caption, which covers each word of the grammar, with a scene of its own."""
    rng = np.random.default_rng(99)
    return [(caption, render(sample_scene(rng, caption))) for caption in captions()[::13]]


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
