import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline, WanTransformer3DModel

from accel import pocket
from accel.pocket.pipeline import WanPocketPipeline
from accel.pocket.text import MAX_TOKENS, embed, make_text_encoder, make_tokenizer
from tests.processes import needs_fork, start

PROMPT = "a red circle moves left on a dark background"


@pytest.fixture(scope="module")
def pipe():
    pipe = pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_load_gives_a_stock_pipeline_that_generates_with_its_defaults(pipe):
    assert isinstance(pipe, WanPipeline)
    assert type(pipe.transformer) is WanTransformer3DModel
    frames = pipe(PROMPT, num_inference_steps=2, generator=seeded()).frames[0]
    assert frames.shape == (17, 64, 64, 3)
    assert np.isfinite(frames).all()
    assert 0 <= frames.min() < frames.max() <= 1


def test_the_clip_follows_the_seed_the_prompt_and_the_guidance(pipe):
    def clip(prompt: str = PROMPT, seed: int = 0, **options):
        return pipe(prompt, num_inference_steps=2, num_frames=5, generator=seeded(seed), **options).frames[0]

    base = clip()
    assert np.array_equal(base, clip())
    for other in (clip(seed=1), clip(PROMPT.replace("red", "blue")), clip(guidance_scale=1.0)):
        assert np.abs(base - other).mean() > 0.01


@pytest.mark.parametrize(("height", "width", "frames"), [(96, 96, 17), (48, 80, 9), (64, 64, 1)])
def test_other_sizes_and_lengths(pipe, height, width, frames):
    clip = pipe(PROMPT, height=height, width=width, num_frames=frames, num_inference_steps=1).frames[0]
    assert clip.shape == (frames, height, width, 3)


@pytest.mark.part(1)
@pytest.mark.parametrize("kind", [DiffusionPipeline, WanPipeline, WanPocketPipeline])
def test_a_saved_pipeline_loads_as_itself_and_as_the_stock_class(pipe, kind, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert type(loaded) is (WanPocketPipeline if kind is WanPocketPipeline else WanPipeline)
    loaded.set_progress_bar_config(disable=True)
    arguments = {
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "max_sequence_length": MAX_TOKENS,
    }
    ours, theirs = (one(PROMPT, generator=seeded(), **arguments).frames for one in (pipe, loaded))
    assert np.array_equal(ours, theirs)


PROGRAM = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "accel"]:
    del sys.modules[name]  # what the tests have imported
import accel, diffusers
assert not [name for name in sys.modules if name.startswith("accel.pocket.")]
print(type(diffusers.DiffusionPipeline.from_pretrained(sys.argv[1]).vae).__name__)
"""


@needs_fork
@pytest.mark.part(1)
@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_saved_pipeline_loads_in_a_program_that_has_only_imported_accel(kind, tmp_path):
    pocket.load(kind).save_pretrained(tmp_path / "saved")
    (tmp_path / "program.py").write_text(PROGRAM)
    program = start(tmp_path / "program.py", [str(tmp_path / "saved")], {}, tmp_path / "said")
    code, said, complained = program.end(600)
    assert code == 0, complained
    assert said.split()[-1].endswith("PatchAutoencoder")


def test_clips_of_a_batch_are_those_of_single_calls(pipe):
    arguments = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2}
    prompts = pocket.prompts(3, 0)
    batch = pipe(prompts, generator=[seeded(i) for i in range(3)], **arguments).frames
    assert batch.shape == (3, 5, 32, 32, 3)
    for i, prompt in enumerate(prompts):
        alone = pipe(prompt, generator=seeded(i), **arguments).frames[0]
        assert np.allclose(batch[i], alone, atol=1e-4)


def test_two_pipelines_share_nothing(pipe):
    other = pocket.load()
    assert other.transformer is not pipe.transformer
    assert other.scheduler is not pipe.scheduler


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="there is no pocket model 'sound'; choose one of: video, few, small, image"):
        pocket.load("sound")


def test_embeddings_in_training_are_those_of_the_pipeline(pipe):
    captions = [PROMPT, "", "a green cross stays still on a dotted background"]
    with torch.no_grad():
        ours = embed(pipe.tokenizer, pipe.text_encoder, captions)
        theirs = pipe.encode_prompt(captions, max_sequence_length=MAX_TOKENS, do_classifier_free_guidance=False)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert ours[1, 0].abs().max() > 0
    assert torch.equal(ours[1, 1:], torch.zeros_like(ours[1, 1:]))


def test_every_caption_fits_the_tokenizer_without_unknown_words():
    tokenizer = make_tokenizer()
    for prompt in pocket.prompts(480):
        tokens = tokenizer(prompt).input_ids
        assert tokenizer.unk_token_id not in tokens
        assert tokens[-1] == tokenizer.eos_token_id
        assert len(tokens) <= MAX_TOKENS
    assert tokenizer.unk_token_id in tokenizer("a purple elephant").input_ids


def test_an_untrained_text_encoder_tells_captions_apart():
    tokenizer = make_tokenizer()
    with torch.no_grad():
        words = embed(tokenizer, make_text_encoder(len(tokenizer)), pocket.prompts(2))
    assert words.shape == (2, MAX_TOKENS, 64)
    assert not torch.allclose(words[0], words[1])
