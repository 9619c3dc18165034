"""Files to models and back (safetensors)."""
