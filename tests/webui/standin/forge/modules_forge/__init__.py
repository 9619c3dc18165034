"""Its presence tells Forge from AUTOMATIC1111."""
