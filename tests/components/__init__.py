"""Real components for the tests and the demo, fetched by their package managers and pinned by sha256."""
