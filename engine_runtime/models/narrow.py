"""An Oobleck VAE whose encoder is narrower than its class can say.

`AutoencoderOobleck` takes `encoder_hidden_size` both as the encoder's first width and as the width of its output, which
is twice the latent channels: 128 for 64 channels, and with a decoder's multiples 100 million weights. Where a VAE's
config has `narrow_encoder`, the encoder is built by those sizes instead:

    hidden_size, channel_multiples   of the encoder alone
    plain_levels                     so many levels from the audio on have no residual units
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderOobleck
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder, OobleckEncoder
from torch import nn
from torch.nn.utils import weight_norm

NARROW = "narrow_encoder"


def narrow_vae(config: Mapping[str, Any]) -> AutoencoderOobleck:
    """Make the VAE of a config that has `narrow_encoder`: float32, on the current device, with random weights."""
    sizes, narrow = {k: v for k, v in config.items() if k != NARROW and not k.startswith("_")}, config[NARROW]
    with torch.device("meta"):  # the class's own encoder takes no memory
        vae = AutoencoderOobleck(**sizes)
    vae.register_to_config(**{NARROW: dict(narrow)})
    ratios, channels = sizes["downsampling_ratios"], sizes["audio_channels"]
    vae.encoder = OobleckEncoder(narrow["hidden_size"], channels, ratios, narrow["channel_multiples"])
    last = narrow["hidden_size"] * narrow["channel_multiples"][-1]
    vae.encoder.conv2 = weight_norm(nn.Conv1d(last, sizes["encoder_hidden_size"], 3, padding=1))
    for block in vae.encoder.block[: narrow["plain_levels"]]:
        block.res_unit1 = block.res_unit2 = block.res_unit3 = nn.Identity()
    vae.decoder = OobleckDecoder(
        sizes["decoder_channels"], sizes["decoder_input_channels"], channels, ratios[::-1], sizes["channel_multiples"]
    )
    return vae
