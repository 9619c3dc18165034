_handlers = []
_app_started = []


def on_cfg_denoiser(callback):
    _handlers.append(callback)


def cfg_denoiser_callback(params):
    """As the hosts do it: an exception of a handler is reported and swallowed."""
    for handler in _handlers:
        try:
            handler(params)
        except Exception as error:  # the behaviour that stands in
            print("Error executing callback cfg_denoiser_callback:", error)


def clear():
    _handlers.clear()
    _app_started.clear()


def on_app_started(callback):
    _app_started.append(callback)


def app_started_callback(demo, app):
    for handler in _app_started:
        handler(demo, app)
