"""From a script's arguments to what is attached, and from results to infotexts."""
