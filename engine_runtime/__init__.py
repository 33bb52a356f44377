"""Everything that is not ComfyUI. Data runs one way, and a module imports only what stands to its right:

    runtime -> session -> tick -> ring -> engines -> request, schedule, guidance, steps -> config, lane, errors

`models/` loads a model and prepares its conditions and sources; `decode` turns latents into audio; `stats` measures.
"""
