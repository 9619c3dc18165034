"""As both hosts: controls take `tooltip`, every new component is announced, an accordion is a checkbox too."""

from functools import wraps

import gradio as gr
from modules import script_callbacks

tooltips = {}  # elem_id -> text, which the page's script sets as titles

if hasattr(gr, "component_meta"):
    gr.component_meta.create_or_modify_pyi = lambda *_: None  # writes a file beside each subclass


def _announce(cls):
    inner = cls.__init__

    @wraps(inner)  # Gradio 4 reads the signature
    def __init__(self, *args, tooltip=None, **kwargs):
        inner(self, *args, **kwargs)
        if type(self) is cls or cls.__module__ == __name__:
            if tooltip:
                tooltips[self.elem_id] = tooltip
            script_callbacks.run("after_component", self, **kwargs)

    cls.__init__ = __init__
    return cls


for _name in ("Button", "Checkbox", "Dropdown", "File", "Gallery", "HTML", "Image", "Radio", "Slider", "Textbox"):
    _announce(getattr(gr, _name))


class FormRow(gr.Row):
    def get_block_name(self):
        return "row"


class ToolButton(gr.Button):
    @wraps(gr.Button.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, elem_classes=["tool"], **kwargs)

    def get_block_name(self):
        return "button"


_announce(ToolButton)


class AccordionCheckbox(gr.Checkbox):
    """The checkbox and, once it has one, the accordion that `with` enters."""

    accordion = None

    def __enter__(self):
        self.accordion.__enter__()
        return self

    def __exit__(self, *error):
        self.accordion.__exit__(*error)

    def get_block_name(self):
        return "checkbox"


def InputAccordion(value, **kwargs):
    checkbox = AccordionCheckbox(value=value, **{**kwargs, "elem_id": f"{kwargs['elem_id']}-checkbox"})
    checkbox.accordion = gr.Accordion(label=kwargs["label"], elem_id=kwargs["elem_id"], open=True)
    return checkbox
