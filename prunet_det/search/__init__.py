"""The search: a backbone for a latency budget, by pruning in three tiers.

`space` says what may be chosen, `costs` what it costs; `prunode`, `layer` and `supernet` are the
three tiers' modules; `motion`, `tiers` and `architecture` decide; `objective` and `repair` meet the
budget; `data`, `model`, `loop`, `checkpoints` and `runner` run on mmengine; `derive`, `results` and
`report` are what comes out, `session` is what the command line runs, `baselines` what a search is
compared with.
"""
