"""The keys of the config.json of diffusers' models: AutoencoderKL, UNet2DConditionModel and UNet2DModel."""

from __future__ import annotations

from diffusion_train.pretrained.config_keys.base import CODE, NOT_ORDINARY, SAVED, Keys, Refusal, group, words

# The library builds a model from these, so they take effect in each call.
_BLOCKS = (
    "_class_name in_channels out_channels down_block_types up_block_types block_out_channels layers_per_block act_fn "
    "norm_num_groups"
)
_UNET = (
    f"{_BLOCKS} sample_size center_input_sample flip_sin_to_cos freq_shift mid_block_type downsample_padding "
    "mid_block_scale_factor dropout norm_eps attention_head_dim num_class_embeds resnet_time_scale_shift "
    "time_embedding_dim"
)
_AVERAGE = group(
    "describes the average of the weights that the file holds",
    "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup",
)
_LABEL = Refusal(
    "labels other than class numbers are not supported",
    "give another model",
    (None, "timestep", "identity"),
)

AUTOENCODER_KL = Keys(
    used=words(
        f"{_BLOCKS} latent_channels scaling_factor shift_factor latents_mean latents_std force_upcast use_quant_conv "
        "use_post_quant_conv mid_block_add_attention"
    ),
    harmless={**SAVED, "sample_size": "is the size of tiles, and nothing is tiled here"},
    refused=CODE,
)
UNET_2D = Keys(
    used=words(f"{_UNET} downsample_type upsample_type attn_norm_num_groups add_attention num_train_timesteps"),
    harmless={**SAVED, **_AVERAGE},
    refused={
        **CODE,
        "class_embed_type": _LABEL,
        "time_embedding_type": Refusal(
            "the network takes the noise level sigma as its time, which is not supported",
            "give a model with time_embedding_type=positional",
            (None, "positional", "learned"),
        ),
    },
)
UNET_2D_CONDITION = Keys(
    used=words(
        f"{_UNET} only_cross_attention cross_attention_dim transformer_layers_per_block num_attention_heads "
        "reverse_transformer_layers_per_block dual_cross_attention use_linear_projection addition_time_embed_dim "
        "upcast_attention resnet_skip_time_act resnet_out_scale_factor time_embedding_type time_embedding_act_fn "
        "timestep_post_act conv_in_kernel conv_out_kernel projection_class_embeddings_input_dim "
        "class_embeddings_concat mid_block_only_cross_attention cross_attention_norm"
    ),
    harmless={
        **SAVED,
        **_AVERAGE,
        "addition_embed_type_num_heads": "is read only with addition_embed_type=text, which is refused",
    },
    refused={
        **CODE,
        "class_embed_type": _LABEL,
        "time_cond_proj_dim": Refusal(
            "the model is distilled for few steps, with its guidance as an input", NOT_ORDINARY
        ),
        "addition_embed_type": Refusal(
            "must be text_time, as in Stable Diffusion XL, or null", "give another model", (None, "text_time")
        ),
        **dict.fromkeys(
            ["encoder_hid_dim", "encoder_hid_dim_type"],
            Refusal("embeddings of other encoders than CLIP are not supported", "give another model"),
        ),
        "attention_type": Refusal("boxes as conditions are not supported", "give another model", (None, "default")),
    },
)
