class SamAutomaticMaskGenerator:
    pass


sam_model_registry: dict = {}
