"""The demo: the main job on real photos, with the trained miniature of the package or with an untrained one."""
