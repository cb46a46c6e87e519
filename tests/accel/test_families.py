"""What is known of a family stands in one row, and one more row can come from outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from accel import families
from accel.anatomy import anatomy_of, clean_from_prediction
from accel.families import ANY, FAMILIES, Family, of_denoiser, of_pipeline, register, returns_text_first


class GlacierBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = torch.nn.Linear(4, 4)


class GlacierDenoiser(torch.nn.Module):
    """Of no family that accel has heard of: neither its blocks nor what is in them has a usual name."""

    def __init__(self) -> None:
        super().__init__()
        self.seracs = torch.nn.ModuleList([GlacierBlock(), GlacierBlock()])


GLACIER = Family(
    "Glacier",
    pipelines=("Glacier",),
    denoisers=("GlacierDenoiser",),
    guidance_calls="conditional half first",
    negates_prediction=True,
    prompt_tokens="last",
    text_first_blocks=("GlacierBlock",),
    blocks=("seracs",),
    modules={"self_attention": ("mixer",)},
)


@pytest.fixture(autouse=True)
def rows_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(FAMILIES))


def test_a_row_from_outside_is_used_wherever_a_family_is_asked() -> None:
    before = anatomy_of(GlacierDenoiser())
    assert before.family is ANY and not before.blocks and not before.modules

    register(GLACIER)
    found = anatomy_of(GlacierDenoiser())
    assert found.family is GLACIER
    assert found.blocks == {"seracs": 2} and found.image_output == {"seracs": 1}
    assert found.modules == {"self_attention": ("seracs.0.mixer", "seracs.1.mixer")}
    assert found.modulated_input == "seracs.0.mixer"
    assert of_pipeline("GlacierImg2ImgPipeline").guidance_calls == "conditional half first"
    assert clean_from_prediction("flow", "GlacierPipeline") == "inverted_flow"


def test_what_a_row_does_not_say_is_as_in_all_others() -> None:
    register(Family("Moraine", denoisers=("MoraineTransformer",), prompt_tokens="first"))
    found = of_denoiser("MoraineTransformer2DModel")
    assert found.prompt_tokens == "first"
    assert (found.blocks, found.modules, found.time_embedding) == (ANY.blocks, ANY.modules, ANY.time_embedding)


def test_the_longest_beginning_counts() -> None:
    assert of_pipeline("LTXPipeline") is ANY
    assert of_pipeline("LTX2ImageToVideoPipeline").guidance_calls == "conditional half last"
    assert of_denoiser("Flux2Transformer2DModel").name == "Flux 2"
    assert of_denoiser("HunyuanVideoFramepackTransformer3DModel") is ANY
    assert returns_text_first("FluxTransformerBlock") and not returns_text_first("WanTransformerBlock")


@pytest.mark.parametrize(
    ("name", "beginning"), [("Flux", "Firn"), ("Firn", "FluxTransformer2DModel")], ids=["its name", "its class"]
)
def test_a_family_is_not_replaced_in_silence(name: str, beginning: str) -> None:
    with pytest.raises(ValueError, match=r"The family 'Flux' has .*Flux"):
        register(Family(name, denoisers=(beginning,)))


def test_no_two_rows_claim_one_beginning() -> None:
    for role in ("pipelines", "denoisers"):
        claimed = [beginning for row in FAMILIES.values() for beginning in getattr(row, role)]
        assert len(claimed) == len(set(claimed))


def test_the_same_row_again_changes_nothing() -> None:
    register(GLACIER)
    register(Family(**vars(GLACIER)))  # a notebook's cell run twice
    assert FAMILIES.keys() | {"Glacier"} == families.FAMILIES.keys()


@pytest.mark.parametrize("beginnings", ["FirnTransformer", ["FirnTransformer"], ("",), (1,)])
def test_what_would_fail_later_or_claim_every_class_is_refused(beginnings: Any) -> None:
    with pytest.raises(TypeError, match="denoisers of a Family is a tuple"):
        Family("Firn", denoisers=beginnings)
