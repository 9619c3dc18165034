"""One declaration of settings: for the command line, API, UI, infotexts, X/Y/Z axes and documentation."""
