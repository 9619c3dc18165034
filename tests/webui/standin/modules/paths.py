models_path = "models"  # the page sets it
