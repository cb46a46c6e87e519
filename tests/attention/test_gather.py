"""The portable kernel computes exactly what dense attention under the plan's mask does."""

from __future__ import annotations

import pytest
import torch

from accel.attention import kernels
from accel.attention.gather import Gather
from accel.attention.kernels import ChosenKernel, NoKernel, attend
from accel.attention.layout import TokenLayout
from accel.attention.methods.sliding_tile import tile_plan
from accel.attention.packing import EXACT_GROUPS
from accel.attention.plan import KeyPlan
from accel.attention.planner import HeadPlan
from tests.attention.masks import TOLERANCE, activations, error, first_text, inputs, masked, random_plan

LAYOUTS = {
    "no text": TokenLayout(3, 4, 5),
    "text first": TokenLayout(3, 4, 5, text=4, text_first=True),
    "text last": TokenLayout(3, 4, 5, text=4),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.part(24)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [4, 7, 60])
@pytest.mark.parametrize("form", ["identity", "shared", "own blocks", "own order"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_plan_is_its_mask(layout: TokenLayout, form: str, size: int, dtype: torch.dtype) -> None:
    plan = random_plan(layout, size, form)
    q, k, v = activations(layout, dtype=dtype)
    output = attend(inputs(layout, q, k, v), [HeadPlan(None, plan)])
    assert output.dtype == dtype
    assert error(output, masked(q, k, v, plan.mask())) < TOLERANCE[dtype]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_plan_of_everything_is_one_dense_call(layout: TokenLayout) -> None:
    plan = tile_plan(layout, (2, 3, 2), (9, 9, 9))
    q, k, v = activations(layout)
    text = first_text(layout, layout.text)
    kernel = Gather()
    (chunk,) = kernel.chunks(q, k, v, kernel.schedule(q, plan, text), text)
    assert chunk.k.shape[-2] == layout.tokens
    assert error(attend(inputs(layout, q, k, v), [HeadPlan(None, plan)]), masked(q, k, v, plan.mask())) < 1e-5


def test_heads_may_have_plans_of_their_own_form_or_none() -> None:
    layout = LAYOUTS["text last"]
    q, k, v = activations(layout)
    first, last = random_plan(layout, 7, "shared"), random_plan(layout, 4, "own order", heads=1)
    plans = [HeadPlan(torch.tensor([2]), last), HeadPlan(torch.tensor([0]), first), HeadPlan(torch.tensor([1]), None)]
    mask = torch.ones(2, 3, layout.tokens, layout.tokens, dtype=torch.bool)
    mask[:, 0], mask[:, 2] = first.mask(), last.mask()[:, 0]
    assert error(attend(inputs(layout, q, k, v), plans), masked(q, k, v, mask)) < 1e-5


@pytest.mark.parametrize("lengths", [(2, 2), (1, 3)], ids=["the same in all samples", "its own in each sample"])
@pytest.mark.parametrize("form", ["shared", "own order"])
@pytest.mark.parametrize("where", ["text first", "text last"])
def test_padded_text_is_never_attended(where: str, form: str, lengths: tuple[int, int]) -> None:
    layout = LAYOUTS[where]
    q, k, v = activations(layout)
    there = torch.ones(2, layout.tokens, dtype=torch.bool)
    there[:, layout.text_rows] = torch.arange(layout.text) < torch.tensor(lengths)[:, None]
    v = v.masked_fill(~there[:, None, :, None], 1e6)
    plan = random_plan(layout, 4, form)
    asked = inputs(layout, q, k, v, there)
    right = masked(q, k, v, plan.mask(), there)
    heads = [HeadPlan(torch.tensor([0, 1, 2]), plan)], [HeadPlan(None, plan)]
    for plans in heads:
        assert error(attend(asked, plans), right) < 1e-5
    everything = masked(q, k, v, torch.ones_like(plan.mask()), there)
    assert error(attend(asked, [HeadPlan(None, None)]), everything) < 1e-5


def test_units_of_very_many_sizes_share_calls() -> None:
    layout = TokenLayout(1, 1, 60 * 61 // 2)
    order = torch.full((60, 60), -1)
    start = 0
    for size in range(1, 61):
        order[size - 1, :size] = torch.arange(start, start + size)
        start += size
    plan = KeyPlan(layout, order, torch.stack([torch.randperm(60)[:3] for _ in range(60)]))
    q, k, v = activations(layout, samples=1, heads=1)
    schedule = Gather().schedule(q, plan, first_text(layout, 0))
    assert len(schedule.groups) < 60 > EXACT_GROUPS
    assert error(Gather()(q, k, v, plan, 0.3, first_text(layout, 0)), masked(q, k, v, plan.mask())) < 1e-5


@pytest.mark.parametrize("form", ["shared", "own blocks"])
def test_gathered_keys_stay_within_the_chunk_size_and_do_not_depend_on_it(form: str) -> None:
    layout = TokenLayout(4, 8, 8, text=3)
    plan, (q, k, v) = random_plan(layout, 16, form), activations(layout)
    text = first_text(layout, 2)
    unit = (4 * 16 + 2) * (16 + 16) * 4  # the keys and values of four blocks and the text, for one head
    outputs, most = [], []
    for size in (1, 3 * unit, 1 << 24):
        kernel = Gather(size)
        chunks = list(kernel.chunks(q, k, v, kernel.schedule(q, plan, text), text))
        most.append(max((chunk.k.numel() + chunk.v.numel()) * 4 for chunk in chunks))
        assert most[-1] <= max(size, unit)
        outputs.append(kernel(q, k, v, plan, 0.3, text))
    assert most[0] < most[1] < most[2]
    assert error(outputs[0], outputs[2]) < 1e-6 and error(outputs[1], outputs[2]) < 1e-6


def test_windows_of_frames_are_sliced_and_not_copied() -> None:
    layout = TokenLayout(6, 16, 16)
    plan, (q, k, v) = tile_plan(layout, (1, 16, 16), (3, 1, 1)), activations(layout, samples=1, heads=2)
    k, v = k.contiguous(), v.contiguous()
    kernel, text = Gather(), first_text(layout, 0)
    chunks = list(kernel.chunks(q, k, v, kernel.schedule(q, plan, text), text))
    assert [chunk.q.shape[2] // layout.frame for chunk in chunks] == [2, 1, 1, 2]  # the ends share their window
    assert all(chunk.k.untyped_storage().data_ptr() == k.untyped_storage().data_ptr() for chunk in chunks)
    assert error(kernel(q, k, v, plan, 0.3, text), masked(q, k, v, plan.mask())) < 1e-5


class Wrong:
    """Right on everything small, wrong on real activations; or it fails at once."""

    name = "wrong"

    def __init__(self, fails: bool) -> None:
        self.fails, self.calls = fails, 0

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan, scale: float, text: torch.Tensor
    ) -> torch.Tensor:
        self.calls += 1
        if self.fails:
            raise RuntimeError("no compiler\nand a long trace")
        output = Gather()(q, k, v, plan, scale, text)
        return output * (1.1 if len(q) == 2 else 1.0)


@pytest.mark.parametrize(
    ("fails", "note"), [(True, "it fails with RuntimeError: no compiler"), (False, "on the model's activations")]
)
def test_a_kernel_that_fails_its_test_is_replaced_and_named(fails: bool, note: str) -> None:
    layout = LAYOUTS["text last"]
    q, k, v = activations(layout)
    plan, wrong = random_plan(layout, 7, "own blocks"), Wrong(fails)
    kernel = ChosenKernel([wrong, Gather()])
    for _ in range(3):
        output = attend(inputs(layout, q, k, v), [HeadPlan(None, plan)], kernel)
        assert error(output, masked(q, k, v, plan.mask())) < 1e-5
    assert kernel.name == "gather" and wrong.calls == (1 if fails else 2)
    assert len(kernel.notes) == 1 and note in kernel.notes[0]


def test_where_no_kernel_is_right_there_is_no_answer() -> None:
    layout = LAYOUTS["no text"]
    q, k, v = activations(layout)
    plan, kernel = random_plan(layout, 7, "shared"), ChosenKernel([Wrong(True)])
    with pytest.raises(NoKernel):
        attend(inputs(layout, q, k, v), [HeadPlan(None, plan)], kernel)


def test_on_a_processor_keys_are_gathered() -> None:
    layout = LAYOUTS["no text"]
    q, k, v = activations(layout)
    kernel = ChosenKernel()
    attend(inputs(layout, q, k, v), [HeadPlan(None, random_plan(layout, 7, "shared"))], kernel)
    assert kernel.name == "gather" and kernel.notes == []


def test_verdicts_on_kernels_and_their_notes_are_a_sessions_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails on the activations of one model may be right on another's."""
    layout = LAYOUTS["no text"]
    wrong = Wrong(False)
    monkeypatch.setattr(kernels, "preferred_kernel", lambda device: (wrong, Gather()))
    fails, passes = ChosenKernel(), ChosenKernel()
    for kernel, samples in ((fails, 2), (passes, 1), (fails, 2)):
        q, k, v = activations(layout, samples=samples)
        plan = random_plan(layout, 7, "shared")
        output = attend(inputs(layout, q, k, v), [HeadPlan(None, plan)], kernel)
        assert error(output, masked(q, k, v, plan.mask())) < 1e-5
    assert fails.name == "gather" and len(fails.notes) == 1
    assert passes.name == "wrong" and passes.notes == []
    assert wrong.calls == 3, "on random activations it is tested once in a process"
