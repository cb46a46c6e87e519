"""The tiny pipelines whose latents no method of this lever takes apart, and what it says of each."""

UNTOUCHED = {
    "wan_token_timesteps": "each token has a timestep of its own",
    "z_image": "how its latents are arranged is not known",
    "flux_controlnet": "it is not known how controlnet_block_samples goes with a smaller size",
    "flux_kontext": "tokens of other pictures follow those of the latents",
    "sd3_controlnet": "it is not known how block_controlnet_hidden_states goes with a smaller size",
}
