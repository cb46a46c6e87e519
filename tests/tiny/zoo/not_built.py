"""Why a denoising pipeline class has no tiny pipeline here."""

from __future__ import annotations

TORCHVISION = "needs torchvision, which is not installed: its code resizes with it"
REFUSED = "raises in diffusers 0.42.1 whatever it is given: {} is handed an argument that it does not take"
NO_PARTS = "no tiny parts are written down for it yet: {}"

NOT_BUILT: dict[str, str] = {
    "AnimaModularPipeline": NO_PARTS.format("its text conditioner"),
    "AudioDiffusionPipeline": "needs librosa, which is not installed",
    "BlipDiffusionControlNetPipeline": NO_PARTS.format("a Q-former of its own"),
    "BlipDiffusionPipeline": NO_PARTS.format("a Q-former of its own"),
    "BriaFibo2Pipeline": NO_PARTS.format("the layers of its text encoder that it takes"),
    "Cosmos2TextToImagePipeline": TORCHVISION,
    "Cosmos2VideoToWorldPipeline": TORCHVISION,
    "Cosmos2_5_PredictBasePipeline": TORCHVISION,
    "Cosmos2_5_TransferPipeline": TORCHVISION,
    "Cosmos3DistilledModularPipeline": NO_PARTS.format("its mixture of transformers"),
    "Cosmos3OmniModularPipeline": NO_PARTS.format("its mixture of transformers"),
    "Cosmos3OmniPipeline": NO_PARTS.format("its mixture of transformers"),
    "CosmosTextToWorldPipeline": TORCHVISION,
    "CosmosVideoToWorldPipeline": TORCHVISION,
    "DiffusionGemmaPipeline": "writes text: its denoiser is a language model, which the user gives it",
    "EasyAnimateControlPipeline": REFUSED.format("encode_prompt"),
    "EasyAnimateInpaintPipeline": "raises in diffusers 0.42.1: it reads `cache_mag_vae`, which its autoencoder has not",
    "EchoModularPipeline": NO_PARTS.format("sound and picture memories"),
    "Flux3DistilledModularPipeline": NO_PARTS.format("its transformer"),
    "Flux3ModularPipeline": NO_PARTS.format("its transformer"),
    "GlmImagePipeline": NO_PARTS.format("the language model that writes its first tokens"),
    "Ideogram4Pipeline": NO_PARTS.format("the inner layers of its language model"),
    "JoyImageEditPlusPipeline": NO_PARTS.format("the inner layers of its language model"),
    "Kandinsky6SRPipeline": NO_PARTS.format("its own autoencoder and bank of upscalers"),
    "LLaDA2Pipeline": "writes text: its denoiser is a language model, which the user gives it",
    "LTX25ModularPipeline": NO_PARTS.format("sound, duration and a decoder that denoises"),
    "LTX2DFRTemporalRefinePipeline": NO_PARTS.format("a clip that another pipeline has made, and an upsampler"),
    "LTX2ModularPipeline": NO_PARTS.format("its connectors and sound"),
    "LTX2VideoDiffusionDecodePipeline": NO_PARTS.format("its decoder"),
    "MiniMaxH3ModularPipeline": NO_PARTS.format("its transformer and two autoencoders"),
    "MiniMaxMusic3ModularPipeline": NO_PARTS.format("its language model"),
    "MotifVideoImage2VideoPipeline": NO_PARTS.format("a text encoder with a vision tower"),
    "OmniGenPipeline": TORCHVISION,
    "QwenImage21ModularPipeline": NO_PARTS.format("the masks of its text encoder"),
    "QwenImage21TurboModularPipeline": NO_PARTS.format("the masks of its text encoder"),
    "RFD4ProteinaPipeline": NO_PARTS.format("proteins"),
    "SanaWMLTX2Refiner": NO_PARTS.format("a camera path and its causal transformer"),
    "SanaWMPipeline": NO_PARTS.format("a camera path and its transformer"),
    "SpectrogramDiffusionPipeline": "needs note_seq and onnxruntime, which are not installed",
    "UniDiffuserPipeline": NO_PARTS.format("its text decoder"),
    "VersatileDiffusionDualGuidedPipeline": REFUSED.format("its dual transformer"),
    "WanAnimate2DistilledModularPipeline": NO_PARTS.format("its transformer"),
    "WanAnimate2ModularPipeline": NO_PARTS.format("its transformer"),
}  # fmt: skip
