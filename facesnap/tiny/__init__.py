"""The tiny base: a Stable Diffusion in miniature, a recogniser and an image encoder, trained on the synthetic world."""
