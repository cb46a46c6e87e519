import numpy as np
import pytest

from accel.pocket.scenes import (
    COLOURS,
    SHAPES,
    Caption,
    captions,
    prompts,
    render,
    sample_scene,
    signed_distance,
)


def scene(text: str, seed: int = 0):
    return sample_scene(np.random.default_rng(seed), Caption.parse(text))


def test_every_caption_reads_back():
    every = captions()
    assert len(set(map(str, every))) == len(every) == 6 * 4 * 5 * 4
    assert [Caption.parse(str(caption)) for caption in every] == every


def test_parsing_forgives_case_space_and_full_stop():
    assert Caption.parse(" A Red  circle moves LEFT on a dark background. ").motion == "moves left"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a pink circle moves left on a dark background",
        "a red circle moves sideways on a dark background",
        "a red circle moves left on a plaid background",
        "so a red circle moves left on a dark background",
    ],
)
def test_text_outside_the_grammar_is_refused_with_the_grammar(text):
    with pytest.raises(ValueError, match="COLOUR in red/yellow"):
        Caption.parse(text)


def test_prompts_are_seeded_and_do_not_repeat_while_they_last():
    assert prompts(20, 3) == prompts(20, 3)
    assert prompts(20, 3) != prompts(20, 4)
    assert prompts(5, 3) == prompts(20, 3)[:5]
    assert len(set(prompts(480, 1))) == 480
    assert len(prompts(1000, 1)) == 1000
    assert prompts(0) == []
    with pytest.raises(ValueError, match="n must be 0 or more"):
        prompts(-1)


def test_same_seed_renders_the_same_clip_and_another_seed_another():
    text = "a blue cross moves up on a striped background"
    assert np.array_equal(render(scene(text)), render(scene(text)))
    assert np.abs(render(scene(text)) - render(scene(text, 1))).mean() > 0.02


@pytest.mark.parametrize(("height", "width", "frames"), [(64, 64, 17), (48, 80, 5), (128, 96, 33), (32, 32, 1)])
def test_any_size_renders_within_range(height, width, frames):
    clip = render(scene("a red circle moves left on a dotted background"), height, width, frames)
    assert clip.shape == (frames, height, width, 3)
    assert clip.dtype == np.float32
    assert clip.min() >= 0
    assert clip.max() <= 1


def test_a_larger_frame_shows_the_same_scene():
    one = scene("a yellow triangle moves down on a light background", 4)
    small, large = render(one, 64, 64, 5), render(one, 128, 128, 5)
    halved = large.reshape(5, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(halved - small).mean() < 0.01


def test_motion_is_the_captions():
    for word, axis, sign in [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)]:
        clip = render(scene(f"a red square moves {word} on a dark background", 2))
        chroma = clip.max(-1) - clip.min(-1)
        first, last = (np.argwhere(frame > 0.4).mean(0) for frame in (chroma[0], chroma[-1]))
        assert sign * (last - first)[axis] > 0.2 * 64
        assert abs((last - first)[1 - axis]) < 0.05 * 64


def test_everything_but_the_object_is_grey():
    clip = render(scene("a green circle stays still on a light background", 5))
    coloured = (clip.max(-1) - clip.min(-1)) > 0.02
    assert 0.05 < coloured.mean() < 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance_is_negative_inside_and_scales(shape):
    axis = (np.arange(200, dtype=np.float32) - 99.5) / 100
    x, y = np.meshgrid(axis, axis)
    inside = signed_distance(shape, x, y, 0.5) < 0
    assert inside[100, 100]
    assert not inside[0].any()
    half = signed_distance(shape, x, y, 0.25) < 0
    assert half.sum() == pytest.approx(inside.sum() / 4, rel=0.06)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="choose one of circle, square"):
        signed_distance("star", np.zeros((1, 1)), np.zeros((1, 1)), 1.0)


def test_colours_are_saturated_and_apart():
    rgb = np.asarray(list(COLOURS.values()))
    assert (rgb.max(1) - rgb.min(1)).min() > 0.6
    apart = np.abs(rgb[:, None] - rgb[None]).sum(-1) + 9 * np.eye(len(rgb))
    assert apart.min() > 0.6
