"""Training: photos to shards (prepare), a frozen UNet with a trainable adapter (wiring), losses, the trainer."""
