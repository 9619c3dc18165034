from types import SimpleNamespace

sd_model = None
state = SimpleNamespace(interrupted=False, skipped=False, stopping_generation=False)
opts = SimpleNamespace(batch_cond_uncond=True, skip_early_cond=0.0)
cmd_opts = SimpleNamespace(api=True, nowebui=False, api_auth=None, facesnap_dir=None, facesnap_cache=None)
