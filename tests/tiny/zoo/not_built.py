"""Why a denoising pipeline class has no tiny pipeline here."""

from __future__ import annotations

TORCHVISION = "needs torchvision, which is not installed: its code resizes with it"
NO_PARTS = "no tiny parts are written down for it yet: {}"

NOT_BUILT: dict[str, str] = {
    "AudioDiffusionPipeline": "needs librosa, which is not installed",
    "BlipDiffusionControlNetPipeline": NO_PARTS.format("a Q-former of its own"),
    "BlipDiffusionPipeline": NO_PARTS.format("a Q-former of its own"),
    "Cosmos2TextToImagePipeline": TORCHVISION,
    "Cosmos2VideoToWorldPipeline": TORCHVISION,
    "Cosmos2_5_PredictBasePipeline": TORCHVISION,
    "Cosmos2_5_TransferPipeline": TORCHVISION,
    "CosmosTextToWorldPipeline": TORCHVISION,
    "CosmosVideoToWorldPipeline": TORCHVISION,
    "DiffusionGemmaPipeline": "writes text: its denoiser is a language model, which the user gives it",
    "EasyAnimateControlPipeline": "raises in diffusers 0.42.1 whatever it is given: its call hands encode_prompt an argument that it does not take",
    "LLaDA2Pipeline": "writes text: its denoiser is a language model, which the user gives it",
    "OmniGenPipeline": TORCHVISION,
    "SpectrogramDiffusionPipeline": "needs note_seq and onnxruntime, which are not installed",
    "VersatileDiffusionDualGuidedPipeline": "raises in diffusers 0.42.1: its dual transformer is handed an argument that it does not take",
}  # fmt: skip
