models_path = ""  # the page sets it
