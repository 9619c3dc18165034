"""The user interface inside a WebUI."""
