"""The judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from einops import rearrange

from accel.pocket.autoencoder import PatchAutoencoder, PicturePatchAutoencoder, _principal
from benchmarks.judges.data import cells, films, glyphs, marks, photos, sounds, terrain, waves
from benchmarks.judges.images import DiT, Flux, StableDiffusion, StableDiffusion3
from benchmarks.judges.judge import Judge, Source, Training
from benchmarks.judges.lapped import LappedAutoencoder
from benchmarks.judges.objectives import Diffusion, Flow, Preconditioned
from benchmarks.judges.sounds import StableAudio
from benchmarks.judges.videos import AnimateDiff, CogVideoX, Wan

SQUARE: Mapping[str, Any] = {"height": 32, "width": 32}

# The noisier a model that predicts noise begins, the more its first errors are magnified: small ones begin at 5 and 7 %
# of signal, as Stable Diffusion does. Of v there is no such harm.
DIT: Mapping[str, Any] = {"beta_start": 0.0001, "beta_end": 0.012, "beta_schedule": "linear"}
SD: Mapping[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_V: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.016,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}
COG: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
EDM: Mapping[str, Any] = {"sigma_min": 0.01, "sigma_max": 20.0, "sigma_data": 1.0, "prediction_type": "v_prediction"}


def flow_unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def picture_patches(samples: torch.Tensor) -> PicturePatchAutoencoder:
    """Latents of 4x4 pixels, of pictures or of the frames of clips."""
    pictures = rearrange(samples, "b c t h w -> (b t) c h w") if samples.ndim == 5 else samples
    model: PicturePatchAutoencoder = PicturePatchAutoencoder.fit(pictures, 12)
    return model


def tiny_patches(pictures: torch.Tensor) -> PicturePatchAutoencoder:
    """Latents of 2x2 pixels, of which Flux makes one token of four."""
    model: PicturePatchAutoencoder = PicturePatchAutoencoder(6, block_out_channels=(3, 12))
    parts = _principal(model._patches(pictures).flatten(0, -2), 6, 0.5)
    for parameter, value in zip((model.mean, model.basis, model.deviation), parts, strict=True):
        parameter.data.copy_(value)
    return model


GLYPHS = Judge(
    name="glyphs",
    family=DiT(),
    language=glyphs.LANGUAGE,
    draw=glyphs.draw,
    source=Source(
        "letters and digits in fifteen typefaces, coloured, turned, with smaller ones behind, 32x32.",
        "drawn here, with typefaces that matplotlib ships (DejaVu, STIX, Computer Modern: free licences).",
    ),
    objective=Diffusion(DDIMScheduler(**DIT)),
    schedulers={
        "ddim": lambda: DDIMScheduler(**DIT, clip_sample=False),
        "dpm++": lambda: DPMSolverMultistepScheduler(**DIT),
    },
    guidance_scales=(2.0, 8.0),
    autoencoder=picture_patches,
    training=Training(updates=1800, pool=500),
)

CELLS = Judge(
    name="cells",
    family=Flux(),
    language=cells.LANGUAGE,
    draw=cells.draw,
    source=Source(
        "mosaics, bubbles, spots and mazes in five palettes and three scales, 32x32, without any object.",
        "drawn here, from random numbers alone.",
    ),
    objective=Flow(shift=1.6),
    schedulers={
        "euler": lambda: FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "unipc": lambda: flow_unipc(1.6),
    },
    guidance_scales=(2.0, 7.0),
    autoencoder=tiny_patches,
    training=Training(updates=600, batch=24, pool=1500, fresh=2),
    call=SQUARE,
)

PHOTOS = Judge(
    name="photos",
    family=StableDiffusion(),
    language=photos.LANGUAGE,
    draw=photos.draw,
    source=Source(
        "crops of twelve real pictures at three distances in three lights, 32x32.",
        "the pictures are inside scikit-image; public domain, CC0 or without known restrictions.",
    ),
    objective=Diffusion(DDIMScheduler(**SD_V)),
    schedulers={
        "ddim": lambda: DDIMScheduler(**SD_V, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        "euler": lambda: EulerDiscreteScheduler(**SD_V, steps_offset=1, timestep_spacing="trailing"),
    },
    guidance_scales=(2.0, 7.5),
    autoencoder=picture_patches,
    training=Training(updates=1200),
    call=SQUARE,
)

WAVES = Judge(
    name="waves",
    family=Wan(),
    language=waves.LANGUAGE,
    draw=waves.draw,
    source=Source(
        "rings, swell, smoke and spirals that move, 13 frames of 32x32, without any object.",
        "drawn here, from random numbers alone.",
    ),
    objective=Flow(shift=3.0),
    schedulers={
        "unipc": lambda: flow_unipc(3.0),
        "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    },
    guidance_scales=(2.0, 8.0),
    autoencoder=lambda samples: PatchAutoencoder.fit(samples, 24),
    training=Training(updates=1000, pool=500),
    call={"height": 32, "width": 32, "num_frames": 13},
    video=True,
)

FILMS = Judge(
    name="films",
    family=CogVideoX(),
    language=films.LANGUAGE,
    draw=films.draw,
    source=Source(
        "a camera that pans over twelve real pictures or zooms, 13 frames of 32x32.",
        "the pictures are inside scikit-image; public domain, CC0 or without known restrictions.",
    ),
    objective=Diffusion(CogVideoXDDIMScheduler(**COG)),
    schedulers={
        "ddim": lambda: CogVideoXDDIMScheduler(**COG),
        "dpm++": lambda: DPMSolverMultistepScheduler(**COG),
    },
    guidance_scales=(2.0, 7.5),
    autoencoder=lambda samples: PatchAutoencoder.fit(samples, 32, whitening=0.0),
    training=Training(updates=1500, pool=500),
    call={"height": 32, "width": 32, "num_frames": 13},
    video=True,
)

MARKS = Judge(
    name="marks",
    family=AnimateDiff(),
    language=marks.LANGUAGE,
    draw=marks.draw,
    source=Source(
        "characters that slide, spin, grow or shrink over noise, 8 frames of 32x32.",
        "drawn here, with typefaces that matplotlib ships (DejaVu, STIX, Computer Modern: free licences).",
    ),
    objective=Diffusion(DDIMScheduler(**SD)),
    schedulers={
        "ddim": lambda: DDIMScheduler(**SD, clip_sample=False, steps_offset=1),
        "dpm++": lambda: DPMSolverMultistepScheduler(**SD),
    },
    guidance_scales=(2.0, 8.0),
    autoencoder=picture_patches,
    training=Training(updates=3000, batch=4, pool=500),
    call={**SQUARE, "num_frames": 8},
    video=True,
)

TERRAIN = Judge(
    name="terrain",
    family=StableDiffusion3(),
    language=terrain.LANGUAGE,
    draw=terrain.draw,
    source=Source(
        "a real elevation model, lit from four sides, in four palettes from three heights, 32x32.",
        "the elevations (jacksboro_fault_dem) are in the sample data of matplotlib, under its licence.",
    ),
    objective=Flow(shift=3.0),
    schedulers={
        "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
        "dpm++": lambda: DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    },
    guidance_scales=(1.0, 7.5),
    autoencoder=picture_patches,
    training=Training(updates=1500, pool=500),
    call=SQUARE,
)

SOUNDS = Judge(
    name="sounds",
    family=StableAudio(),
    language=sounds.LANGUAGE,
    draw=sounds.draw,
    source=Source(
        "tones, glides, trembling tones and rhythms, 0.77 seconds at 8000 samples per second.",
        "drawn here, from sines.",
    ),
    objective=Preconditioned(EDMDPMSolverMultistepScheduler(**EDM)),
    schedulers={
        "dpm++": lambda: EDMDPMSolverMultistepScheduler(**EDM),
        "euler": lambda: EDMEulerScheduler(**EDM),
    },
    guidance_scales=(2.0, 7.0),
    autoencoder=lambda samples: LappedAutoencoder.fit(samples, 64, sounds.RATE),
    training=Training(updates=850, pool=500),
)

CANDIDATES: dict[str, Judge] = {
    judge.name: judge for judge in (GLYPHS, CELLS, PHOTOS, TERRAIN, WAVES, FILMS, MARKS, SOUNDS)
}
"""All that can be trained."""

# marks is still noise after 600 updates: a U-Net of clips needs thousands. Of sounds there is no PSNR, which is what
# presets promise: `benchmarks.sound` judges by it.
JUDGES: dict[str, Judge] = {name: judge for name, judge in CANDIDATES.items() if judge not in (MARKS, SOUNDS)}
