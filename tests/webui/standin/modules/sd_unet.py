current_unet = None
current_unet_option = None
