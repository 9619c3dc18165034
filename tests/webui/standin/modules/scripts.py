AlwaysVisible = object()
scripts_data = []


class Script:
    infotext_fields = None
    paste_field_names = None
    is_img2img = False
