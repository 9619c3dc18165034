"""One declaration of a generation's settings: for the command line, API, UI, infotexts, X/Y/Z axes and documentation."""
