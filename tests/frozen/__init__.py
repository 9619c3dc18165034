"""Behaviour as it was when it was frozen: files, texts, keys and pictures that later code reads and makes alike."""
