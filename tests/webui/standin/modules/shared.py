from types import SimpleNamespace

sd_model = None
state = SimpleNamespace(interrupted=False, skipped=False, stopping_generation=False)
cmd_opts = SimpleNamespace(
    api=True,
    nowebui=False,
    api_auth=None,
    facesnap_dir=None,
    facesnap_cache=None,
    lowvram=False,
    medvram=False,
    medvram_sdxl=False,
)
opts = SimpleNamespace(batch_cond_uncond=True, skip_early_cond=0.0, data={})
