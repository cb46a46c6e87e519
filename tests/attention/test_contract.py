"""What the attention lever promises for every pipeline: a planner that stays dense changes nothing, a plan is answered
exactly, and tokens stand where the layout says. Checked against masked attention on a twin that accel never touches."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from torch.nn import functional as F

import accel
from accel.anatomy import Anatomy
from accel.attention import break_even
from accel.attention.layout import TokenLayout
from accel.attention.plan import KeyPlan
from accel.attention.planner import AttentionInputs, HeadPlan, Planner, SparseAttention
from accel.attention.sdpa import KeyMasks, SdpaCall
from accel.attention.tokens import patches
from tests.accel.residue import of_denoisers, traces
from tests.accel.witness import denoisers, flat, pipeline, plain, twin
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

DENSE = F.scaled_dot_product_attention

# The tokens of the first self-attention, written down from reading the models: frames, height, width; where the prompt
# stands and how long it is. U-Nets see the pictures of a clip one by one.
TOKENS: dict[str, tuple[tuple[int, int, int], str]] = {
    "wan": ((3, 4, 4), ""),
    "wan_two_experts": ((3, 4, 4), ""),
    "wan_token_timesteps": ((3, 4, 4), ""),
    "wan_i2v": ((3, 4, 4), ""),
    "ltx": ((3, 4, 4), ""),
    "mochi": ((3, 4, 4), "last"),
    "hunyuan_video": ((3, 4, 4), "last"),
    "cogvideox": ((3, 4, 4), "first"),
    "flux": ((1, 8, 8), "first"),
    "sd3": ((1, 8, 8), "last"),
    "qwen_image": ((1, 8, 8), "first"),
    "pixart": ((1, 8, 8), ""),
    "z_image": ((1, 8, 8), "last"),
    "sdxl": ((1, 8, 8), ""),
    "sd": ((1, 16, 16), ""),
    "animatediff": ((1, 8, 8), ""),
    "svd": ((1, 8, 8), ""),
}
UNETS = ("sdxl", "sd", "animatediff", "svd")

every_pipeline = pytest.mark.parametrize("name", TOKENS)
Answer = Callable[[AttentionInputs], Sequence[HeadPlan] | None]


@dataclass(frozen=True)
class Given(SparseAttention, abstract=True):
    """A method that answers as the test says, in all steps and layers."""

    answer: Answer

    def planner(self, anatomy: Anatomy) -> Planner:
        return GivenPlanner(self.answer)


class GivenPlanner(Planner):
    def __init__(self, answer: Answer) -> None:
        self.plan = answer  # type: ignore[method-assign]


def everywhere(answer: Answer, **options: Any) -> Given:
    return Given(answer, **({"warmup": 0.0, "dense_layers": 0, "min_tokens": 0} | options))


def plan_of(inputs: AttentionInputs, groups: int, seen: Sequence[Sequence[int]]) -> list[HeadPlan]:
    """All heads alike: the video tokens in `groups` equal parts, and which parts each part sees."""
    order = torch.arange(inputs.layout.video).view(groups, -1)
    width = max(len(keys) for keys in seen)
    return [HeadPlan(None, KeyPlan(inputs.layout, order, torch.tensor([[*k, *[-1] * (width - len(k))] for k in seen])))]


def full(inputs: AttentionInputs) -> list[HeadPlan]:
    groups = inputs.layout.frames * inputs.layout.height
    return plan_of(inputs, groups, [range(groups)] * groups)


def rows_and_first(inputs: AttentionInputs) -> list[HeadPlan]:
    """Each row of tokens sees itself and the very first row."""
    groups = inputs.layout.frames * inputs.layout.height
    return plan_of(inputs, groups, [[0], *([0, row] for row in range(1, groups))])


def accelerated(name: str, method: SparseAttention, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(attention=method)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


# The reference


def is_self_attention(path: str, name: str) -> bool:
    """Whether a module of the tiny pipelines is one, from reading their models."""
    among_blocks = re.match(r"(.*\.)?(transformer_blocks|single_transformer_blocks|layers|blocks)\.\d+\.\w+$", path)
    if not among_blocks or "refiner" in path or "motion_modules" in path or "temporal" in path:
        return False
    return path.rsplit(".", 1)[1] in ("attn", "attn1", "attention", *["attn2"] * name.startswith("sd3"))


def rows_and_first_mask(name: str, tokens: int) -> torch.Tensor:
    """(L, L), with indices and nothing else."""
    (frames, height, width), prompt = TOKENS[name]
    if name in UNETS:  # a coarser level
        height = width = math.isqrt(tokens)
    video = frames * height * width
    place = torch.arange(tokens) - (tokens - video if prompt == "first" else 0)
    text, row = (place < 0) | (place >= video), place // width
    return (row[:, None] == row) | (row == 0) | text | text[:, None]


@contextmanager
def masked(name: str, pipe: Any, mask_for: Callable[[str, int], torch.Tensor]) -> Iterator[list[str]]:
    """Every self-attention of `pipe` with this mask on top of its own; yields the paths as they are computed."""
    inside, computed, handles = [], [], []
    for root in denoisers(pipe).values():
        for path, module in root.named_modules():
            if is_self_attention(path, name):
                handles.append(module.register_forward_pre_hook(lambda *_, path=path: inside.append(path)))
                handles.append(module.register_forward_hook(lambda *_: (inside.pop(), None)[1]))

    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, **options: Any) -> torch.Tensor:
        if inside and query.shape[-2] == key.shape[-2]:
            computed.append(inside[-1])
            mask = mask_for(name, query.shape[-2])
            attn_mask = mask if attn_mask is None else mask & attn_mask
        return DENSE(query, key, value, attn_mask=attn_mask, **options)

    F.scaled_dot_product_attention = attention
    try:
        yield computed
    finally:
        F.scaled_dot_product_attention = DENSE
        for handle in handles:
            handle.remove()


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5 * max(float(b.abs().max()), 1.0))


@pytest.mark.part(1)
@every_pipeline
def test_a_planner_that_stays_dense_changes_no_bit(name: str) -> None:
    output, report = accelerated(name, everywhere(lambda _: None), steps=3)
    assert torch.equal(output, plain(name, steps=3))
    assert not report.levers[0].engaged and "as the method chose" in report.levers[0].reason


@pytest.mark.part(2)
@every_pipeline
def test_a_full_plan_equals_the_plain_pipeline(name: str) -> None:
    output, report = accelerated(name, everywhere(full), steps=3)
    assert close(output, plain(name, steps=3))
    assert report.levers[0].engaged and "computing 100% of their" in report.levers[0].reason


@pytest.mark.part(3)
@every_pipeline
def test_a_sparse_plan_equals_masked_dense_attention(name: str) -> None:
    output, report = accelerated(name, everywhere(rows_and_first), steps=3)
    with masked(name, twin(name), rows_and_first_mask) as computed:
        expected = run(twin(name), TINY[name], steps=3)
    assert close(output, expected)
    assert not torch.allclose(output, plain(name, steps=3), atol=1e-3)
    assert report.levers[0].reason.startswith(f"{len(computed)} of {len(computed)} self-attentions sparse")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "mochi", "hunyuan_video", "cogvideox", "z_image", "sd", "animatediff"])
def test_a_full_plan_for_a_batch_of_another_size(name: str) -> None:
    """The latents of "sd" are odd here, so its coarser level is rounded up; Z-Image pads its picture with tokens."""
    output, report = accelerated(name, everywhere(full), steps=2, batch=2, size="other")
    assert close(output, plain(name, steps=2, batch=2, size="other"))
    assert report.levers[0].engaged and "dense" not in report.levers[0].reason


# Where tokens stand


@contextmanager
def first_attention(name: str, change: Callable[[torch.Tensor], None] | None) -> Iterator[list[torch.Tensor]]:
    """What the first self-attention answers, each call; `change` alters the latents of every denoiser call."""
    root = denoisers(pipeline(name))["transformer"]
    module = next(child for path, child in root.named_modules() if is_self_attention(path, name))
    heard: list[torch.Tensor] = []

    def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        latents = given.clone()
        if change is not None:
            change(latents)
        return ((latents, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": latents})

    handles = [root.register_forward_pre_hook(before, with_kwargs=True)]
    handles.append(module.register_forward_hook(lambda _, __, output: heard.append(flat(output)[0])))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def part_of_latents(name: str, latents: torch.Tensor, part: int) -> torch.Tensor:
    """The latents of one frame of a clip, or of one row of tokens of a picture."""
    if name in ("ltx", "flux", "qwen_image"):  # packed
        size = {"ltx": 4 * 4, "flux": 8, "qwen_image": 8}[name]
        return latents[:, part * size : (part + 1) * size]
    if name == "cogvideox":
        return latents[:, part]
    return latents[:, :, part] if latents.ndim == 5 else latents[:, :, 2 * part : 2 * part + 2]


@pytest.mark.part(2)
@pytest.mark.parametrize("name", [name for name in TOKENS if name not in (*UNETS, "z_image", "wan_token_timesteps")])
def test_tokens_that_see_only_their_own_part_do_not_hear_of_the_others(name: str) -> None:
    """Frames of clips, rows of pictures. Z-Image mixes its tokens before its first self-attention."""
    (frames, height, width), _ = TOKENS[name]
    parts = frames if frames > 1 else height
    method = everywhere(lambda inputs: plan_of(inputs, parts, [[part] for part in range(parts)]))
    changed = parts - 2

    def change(latents: torch.Tensor) -> None:
        part_of_latents(name, latents, changed).add_(1.0)

    answers = []
    for by in (None, change):
        with first_attention(name, by) as heard:
            accelerated(name, method, steps=2)
        answers.append(heard[0][:, : frames * height * width].unflatten(1, (parts, -1)))
    moved = (answers[0] - answers[1]).abs().amax((0, 2, 3)) > 1e-6
    assert moved.tolist() == [part == changed for part in range(parts)]


@pytest.mark.part(2)
@pytest.mark.parametrize("name", UNETS)
def test_the_layouts_of_a_u_net_are_the_pictures_that_its_attentions_are_given(name: str) -> None:
    root = denoisers(pipeline(name))["unet"]
    shapes: dict[str, tuple[int, ...]] = {}

    def listener(path: str) -> Callable[..., None]:
        def hear(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            shapes[path] = tuple((args[0] if args else kwargs["hidden_states"]).shape)

        return hear

    handles = [
        module.register_forward_pre_hook(listener(path), with_kwargs=True)
        for path, module in root.named_modules()
        if re.fullmatch(r".*\.attentions\.\d+", path)
    ]
    layouts: dict[str, tuple[TokenLayout, int]] = {}

    def note(inputs: AttentionInputs) -> None:
        layouts[inputs.site.path.split(".transformer_blocks")[0]] = (inputs.layout, len(inputs.q))

    accelerated(name, everywhere(note), steps=2, size="other")
    for handle in handles:
        handle.remove()
    assert layouts == {path: (TokenLayout(1, *shape[2:]), shape[0]) for path, shape in shapes.items()}


def test_layers_are_numbered_in_the_order_in_which_they_run() -> None:
    for name, count in {"wan_two_experts": 2, "flux": 4, "sd3": 4, "hunyuan_video": 4, "sd": 4}.items():
        sites: dict[str, list[int]] = {}
        counts: set[int] = set()

        def note(inputs: AttentionInputs, sites: dict[str, list[int]] = sites, counts: set[int] = counts) -> None:
            sites.setdefault(inputs.site.denoiser, []).append(inputs.site.layer)
            counts.add(inputs.site.layers)

        accelerated(name, everywhere(note), steps=8 if name == "wan_two_experts" else 2)
        for layers in sites.values():
            assert layers == list(range(count)) * (len(layers) // count)
        assert counts == {count}


def test_reference_pictures_among_the_tokens_stay_dense() -> None:
    output, report = accelerated("flux_kontext", everywhere(full), steps=2)
    assert torch.equal(output, plain("flux_kontext", steps=2))
    assert not report.levers[0].engaged
    assert "of 136 tokens that fit no layout known for FluxTransformer2DModel" in report.levers[0].reason


def test_padded_text_is_told_to_the_planner() -> None:
    masks = []
    accelerated("hunyuan_video", everywhere(lambda inputs: masks.append(inputs.key_mask)), steps=2)
    assert all(mask.tolist() == [[True] * (48 + 6) + [False] * 2] for mask in masks)
    # Mochi computes one attention for each sample, with its prompt's valid tokens: they are streams of their own.
    seen = set()
    method = everywhere(lambda inputs: seen.add((inputs.site.stream, inputs.layout.text, inputs.key_mask)))
    accelerated("mochi", method, steps=2)
    assert seen == {("cond_uncond", 4, None), ("cond_uncond (2)", 7, None)}


# The policy


def test_first_steps_and_layers_and_short_sequences_stay_dense() -> None:
    asked = set()

    def note(inputs: AttentionInputs) -> list[HeadPlan]:
        asked.add((inputs.site.context.position, inputs.site.layer))
        return full(inputs)

    _, report = accelerated("wan", Given(note, warmup=0.3, dense_layers=1, min_tokens=48), steps=5)
    assert asked == {(step, 1) for step in (2, 3, 4)}  # 1.5 steps are two
    assert report.levers[0].reason == (
        "6 of 20 self-attentions sparse, computing 100% of their query-key pairs (kernel gather); attention is about"
        " 20% of a step at 48 tokens; dense: 8 in the first steps (warmup), 6 in the first layers (dense_layers)"
    )
    asked.clear()
    output, report = accelerated("wan", Given(note, min_tokens=49), steps=5)
    assert not asked and torch.equal(output, plain("wan", steps=5))
    assert not report.levers[0].engaged
    assert "8 too short to gain (48 tokens, from 49 on it pays: min_tokens)" in report.levers[0].reason


def test_where_sparsity_cannot_pay_the_method_is_not_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences are not even planned; what is planned with most of the pairs is computed densely."""
    monkeypatch.setitem(break_even.PAYS_FROM, "cpu", 48)
    monkeypatch.setitem(break_even.PAYS_UP_TO, "cpu", 0.5)
    output, report = accelerated("wan", Given(full), steps=3)
    assert torch.equal(output, plain("wan", steps=3))
    assert "planned with over 50% of the pairs, which does not pay" in report.levers[0].reason
    assert accelerated("wan", Given(rows_and_first), steps=3)[1].levers[0].engaged
    monkeypatch.setitem(break_even.PAYS_FROM, "cpu", 49)
    _, report = accelerated("wan", Given(rows_and_first), steps=3)
    assert "too short to gain (48 tokens, from 49 on it pays: min_tokens)" in report.levers[0].reason


def test_heads_of_different_plans_count_by_their_number() -> None:
    def split(inputs: AttentionInputs) -> list[HeadPlan]:
        sparse = rows_and_first(inputs)[0].plan
        return [HeadPlan(torch.tensor([0]), sparse), HeadPlan(torch.tensor([1]), None)]

    _, report = accelerated("pixart", everywhere(split), steps=2)
    density = (8 + 7 * 16) / 64 / 8  # of 8 rows of 8, one sees itself and seven see two
    assert f"computing {(1 + density) / 2:.0%} of" in report.levers[0].reason


def test_each_run_and_each_shape_of_latents_has_a_planner_of_its_own() -> None:
    made = []

    @dataclass(frozen=True)
    class Counting(Given, abstract=True):
        def planner(self, anatomy: Anatomy) -> Planner:
            made.append(set())
            planner = GivenPlanner(lambda inputs: made[made.index(mine)].add(inputs.q.shape))
            mine = made[-1]
            return planner

    def switch_off(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == 1:
            pipe._guidance_scale = 0.0
            values |= {"prompt_embeds": values["prompt_embeds"].chunk(2)[-1]}
        return values

    method = Counting(lambda _: None, warmup=0.0, dense_layers=0, min_tokens=0)
    accelerated(
        "sd",
        method,
        steps=4,
        callback_on_step_end=switch_off,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert [{shape[0] for shape in shapes} for shapes in made] == [{2}, {1}]


# Masks


def key_mask(mask: torch.Tensor | None, tokens: int = 6, video: slice = slice(0, 4)) -> Any:
    """What is read from a mask of two samples and three heads, over four video tokens and then two of text."""
    q = torch.zeros(2, 3, tokens, 8)
    there = KeyMasks().read(SdpaCall(q, q, q, attn_mask=mask), video)
    return there.tolist() if isinstance(there, torch.Tensor) else there


def test_masks_of_padded_text_are_told_from_all_others() -> None:
    there = torch.tensor([[True] * 5 + [False], [True] * 4 + [False] * 2])
    assert key_mask(None) is True
    assert key_mask(torch.ones(2, 1, 1, 6, dtype=torch.bool)) is True
    assert key_mask(there[:, None, None]) == there.tolist()
    assert key_mask(there[:1, None, None]) == there[:1].expand(2, 6).tolist()
    assert key_mask(there[:, None, None].expand(2, 3, 6, 6)) == there.tolist()
    assert key_mask(torch.zeros(2, 1, 1, 6)) is True
    for nothing in (-10000.0, -math.inf, torch.finfo(torch.float32).min):
        assert key_mask(torch.zeros(2, 1, 1, 6).masked_fill(~there[:, None, None], nothing)) == there.tolist()
    # Between queries, between heads, with weights, without video tokens, of another length.
    assert key_mask(torch.ones(6, 6, dtype=torch.bool).tril()) is False
    assert key_mask(there[:, None, None].expand(2, 3, 1, 6).clone()) is False
    assert key_mask(torch.full((2, 1, 1, 6), 0.5)) is False
    assert key_mask(there[:, None, None].flip(-1)) is False
    assert key_mask(there[:, None, None].flip(-1), video=slice(2, 6)) == there.flip(-1).tolist()
    assert key_mask(there[:, None, None], tokens=5) is False


def test_a_mask_is_read_once_in_a_denoiser_call() -> None:
    masks, q = KeyMasks(), torch.zeros(1, 2, 3, 8)
    mask = torch.tensor([True, True, False])[None, None, None]
    first = masks.read(SdpaCall(q, q, q, attn_mask=mask), slice(0, 2))
    assert masks.read(SdpaCall(q, q, q, attn_mask=mask.view(1, 1, 1, 3)), slice(0, 2)) is first
    assert masks.read(SdpaCall(q, q, q, attn_mask=mask), slice(0, 3)) is False


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"patch_size": (1, 2, 2)}, (1, 2, 2)),  # Wan
        ({"patch_size": [2, 4, 4]}, (2, 4, 4)),
        ({"patch_size": 2, "patch_size_t": None}, (1, 2, 2)),  # CogVideoX
        ({"patch_size": 2, "patch_size_t": 2}, (2, 2, 2)),  # CogVideoX 1.5
        ({"patch_size": (16, 16)}, (1, 16, 16)),  # HunyuanImage
        ({"all_patch_size": (2,), "all_f_patch_size": (1,)}, (1, 2, 2)),  # Z-Image
        ({}, (1, 1, 1)),
    ],
)
def test_patch_sizes_by_the_names_of_each_family(config: dict[str, Any], expected: tuple[int, int, int]) -> None:
    assert patches(config) == expected


# Beside everything else


def with_and_without(
    method: accel.Recipe, name: str = "wan", steps: int = 6, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, accel.Report]:
    """The recipe with sparse attention, and the recipe alone around masked dense attention."""
    pipe = TINY[name].build()
    sparse = replace(method, attention=everywhere(rows_and_first))
    with accel.accelerate(pipe, sparse) as session:
        output = run(pipe, TINY[name], steps=steps, **options)
    with accel.accelerate(pipe, method), masked(name, pipe, rows_and_first_mask):
        expected = run(pipe, TINY[name], steps=steps, **options)
    return output, expected, session.report()


GUARDS: dict[str, Any] = {"warmup": 2, "final": 1, "min_steps": 1}


@pytest.mark.part(1)
@pytest.mark.parametrize(
    "recipe",
    [
        accel.Recipe(cache=accel.FixedInterval(2, **GUARDS)),
        accel.Recipe(cache=accel.TeaCache(math.inf, coefficients=(1.0, 0.0), max_skips=1, **GUARDS)),
        accel.Recipe(cache=accel.FirstBlockCache(math.inf, max_skips=1, **GUARDS)),
        accel.Recipe(cache=accel.FORA(2, **GUARDS)),
        accel.Recipe(cache=accel.PAB(4, 2, 3, (-1.0, 1001.0), warmup=1, final=0, min_steps=1)),
        accel.Recipe(guidance=accel.GuidanceInterval(0.0, 0.9)),
    ],
    ids=lambda recipe: recipe.label,
)
def test_sparse_attention_beside_a_cache_or_guidance(recipe: accel.Recipe) -> None:
    output, expected, report = with_and_without(recipe)
    assert close(output, expected)
    assert all(lever.engaged for lever in report.levers) and len(report.levers) == 2


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd", "ltx"])
def test_a_batch_whose_unconditional_half_is_dropped(name: str) -> None:
    output, expected, report = with_and_without(accel.Recipe(guidance=accel.GuidanceInterval()), name)
    assert close(output, expected)
    assert all(lever.engaged for lever in report.levers)


def test_experts_share_nothing() -> None:
    made = []

    @dataclass(frozen=True)
    class Counting(Given, abstract=True):
        def planner(self, anatomy: Anatomy) -> Planner:
            made.append(set())
            seen = made[-1]
            return GivenPlanner(lambda inputs: seen.add(inputs.site.denoiser))

    accelerated("wan_two_experts", Counting(full, warmup=0.0, dense_layers=0, min_tokens=0), steps=8)
    assert made == [{"transformer"}, {"transformer_2"}]


def test_a_denoiser_shared_with_another_pipeline_is_dense_there() -> None:
    pipe = TINY["wan"].build()
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(rows_and_first))):
        assert not torch.allclose(run(pipe, TINY["wan"], steps=2), plain("wan", steps=2), atol=1e-3)
        assert torch.equal(run(other, TINY["wan"], steps=2), plain("wan", steps=2))


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "mochi", "sd"])
def test_restore_and_exceptions_leave_no_trace(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name], steps=2)
    before = of_denoisers(pipe)

    def fails(inputs: AttentionInputs) -> list[HeadPlan]:
        if inputs.site.layer == 1:
            raise InterruptedError
        return full(inputs)

    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(fails))):
        inside = {path: vars(child).keys() for path, child in next(iter(denoisers(pipe).values())).named_modules()}
        with pytest.raises(InterruptedError):
            run(pipe, TINY[name], steps=2)
        after = {path: vars(child).keys() for path, child in next(iter(denoisers(pipe).values())).named_modules()}
        assert after == inside
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(full))):
        run(pipe, TINY[name], steps=2)
    assert traces(pipe) == []
    assert of_denoisers(pipe) == before
    assert torch.equal(run(pipe, TINY[name], steps=2), plain(name, steps=2))


def test_weights_offloaded_for_real() -> None:
    pipe, asked = TINY["wan"].build(), TINY["wan"].arguments(twin("wan"))
    cpu_offload(pipe.vae, execution_device=torch.device("cpu"))  # the pipeline asks its first module for the device
    cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    asked |= {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(rows_and_first))):
        output = pipe(**asked, return_dict=False)[0]
    with masked("wan", twin("wan"), rows_and_first_mask):
        assert close(output, run(twin("wan"), TINY["wan"], steps=2))


def test_lora() -> None:
    pipe = TINY["wan"].build()
    torch.manual_seed(0)
    pipe.transformer.add_adapter(LoraConfig(r=2, lora_alpha=64, target_modules=["to_q"], init_lora_weights=False))
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(rows_and_first))):
        output = run(pipe, TINY["wan"], steps=2)
    with masked("wan", pipe, rows_and_first_mask):
        expected = run(pipe, TINY["wan"], steps=2)
    assert close(output, expected)
    assert not torch.allclose(expected, plain("wan", steps=2), atol=1e-3)


# What stays dense says why


def test_attention_that_never_reaches_torch_stays_as_it_is() -> None:
    pipe = TINY["sd"].build()
    pipe.unet.set_attn_processor(AttnProcessor())
    expected = run(pipe, TINY["sd"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(full))) as session:
        assert torch.equal(run(pipe, TINY["sd"], steps=2), expected)
    assert not session.report().levers[0].engaged
    assert "4 attention modules never call torch's scaled_dot_product_attention" in session.report().levers[0].reason


def test_where_no_kernel_passes_its_test_attention_stays_dense_and_the_report_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("accel.attention.kernels.random_fault", lambda *_: "is off")
    pipe = TINY["wan"].build()
    expected = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(rows_and_first))) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), expected)
    report = session.report().levers[0]
    assert not report.engaged
    assert "8 because no kernel passes its test here" in report.reason and "kernel gather is not used" in report.reason


def test_compiled_blocks_stay_dense() -> None:
    pipe = TINY["wan"].build()
    pipe.transformer.blocks[0].compile(backend="eager")
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(rows_and_first))) as session:
        run(pipe, TINY["wan"], steps=2)
    report = session.report().levers[0]
    assert report.reason.startswith("4 of 4 self-attentions sparse")
    assert "1 self-attentions are inside compiled blocks" in report.reason


def test_a_model_without_known_self_attention_is_left_alone() -> None:
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    pipe.transformer.blocks = torch.nn.ModuleList()
    pipe.transformer.forward = lambda hidden_states, timestep: (hidden_states * float(timestep) / 1000,)
    expected = pipe()
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(full))) as session:
        assert torch.equal(pipe(), expected)
    assert "no self-attention is known in" in session.report().levers[0].reason


def test_attention_of_other_lengths_within_a_module_is_none_of_ours() -> None:
    """Such as an IP-Adapter's, whose pictures are keys of their own beside those of the tokens."""
    pipe = TINY["pixart"].build()
    module = pipe.transformer.transformer_blocks[0].attn1
    own = module.processor

    def beside(attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        picture = torch.ones(len(hidden_states), 2, 3, 16)
        query = hidden_states.unflatten(-1, (2, 16)).transpose(1, 2)
        added = F.scaled_dot_product_attention(query, picture, picture).transpose(1, 2).flatten(2)
        return own(attn, hidden_states, *args, **kwargs) + added

    module.processor = beside
    expected = run(pipe, TINY["pixart"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(attention=everywhere(full))) as session:
        assert close(run(pipe, TINY["pixart"], steps=2), expected)
    assert session.report().levers[0].reason.startswith("6 of 6 self-attentions sparse")
