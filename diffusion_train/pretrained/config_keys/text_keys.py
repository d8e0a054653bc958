"""The keys of the configs of text encoders (CLIP and T5) and of their tokenizers."""

from __future__ import annotations

from diffusion_train.pretrained.config_keys.base import CODE, SAVED, Keys, Refusal, group, words

_ARCHITECTURE = "architectures model_type vocab_size"
_TRAINING = "is for training the whole encoder, or for outputs that are not read"
_GENERATION = "is for generating text"
_HARMLESS = {
    **SAVED,
    **group("says which program wrote the file", "transformers_version tokenizer_class"),
    **group("all encoders are loaded in float32", "torch_dtype dtype use_bfloat16"),
    **group("is off in evaluation mode, in which encoders run", "attention_dropout dropout dropout_rate"),
    **group(_TRAINING, "initializer_factor initializer_range classifier_dropout tie_word_embeddings problem_type"),
    **group(_TRAINING, "id2label label2id output_attentions output_hidden_states output_past torchscript"),
    **group(_TRAINING, "finetuning_task task_specific_params n_positions tf_legacy_loss gradient_checkpointing"),
    **group("changes memory, not results", "chunk_size_feed_forward use_cache"),
    **group("is set by the tokenizer", "bos_token_id pad_token_id sep_token_id"),
    **group("belongs to the decoder, which is not used", "num_decoder_layers tie_encoder_decoder is_encoder_decoder"),
    **group("belongs to the decoder, which is not used", "cross_attention_hidden_size decoder_start_token_id"),
    **group("belongs to the decoder, which is not used", "scale_decoder_outputs"),
    **group(_GENERATION, "bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping max_length"),
    **group(_GENERATION, "encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id"),
    **group(_GENERATION, "forced_eos_token_id length_penalty min_length no_repeat_ngram_size num_beam_groups"),
    **group(_GENERATION, "num_beams num_return_sequences output_scores prefix remove_invalid_values"),
    **group(
        _GENERATION, "repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p"
    ),
}
_REFUSED = {
    **CODE,
    "return_dict": Refusal("must be true: outputs are read by name", "set it to true", (None, True)),
    "pruned_heads": Refusal("heads that were removed are not supported", "give the whole model", (None, {})),
    "is_decoder": Refusal("only encoders are supported", "set it to false if the model is one"),
    "add_cross_attention": Refusal("only encoders are supported", "set it to false if the model is one"),
}

CLIP_TEXT = Keys(
    used=words(
        f"{_ARCHITECTURE} hidden_size intermediate_size projection_dim num_hidden_layers num_attention_heads "
        "hidden_act max_position_embeddings layer_norm_eps eos_token_id"
    ),
    harmless=_HARMLESS,
    refused=_REFUSED,
)
T5_ENCODER = Keys(
    used=words(
        f"{_ARCHITECTURE} d_model d_kv d_ff num_layers num_heads relative_attention_num_buckets layer_norm_epsilon "
        "relative_attention_max_distance feed_forward_proj is_gated_act dense_act_fn"
    ),
    harmless=_HARMLESS | group("is set by the tokenizer", "eos_token_id"),
    refused=_REFUSED,
)

# The library makes the tokenizer from these.
TOKENIZER = Keys(
    used=words(
        "tokenizer_class vocab merges vocab_file merges_file tokenizer_file unk_token bos_token eos_token pad_token "
        "model_max_length do_lower_case errors add_prefix_space added_tokens_decoder additional_special_tokens "
        "extra_special_tokens extra_ids sp_model_kwargs add_bos_token add_eos_token legacy split_special_tokens "
        "_spm_precompiled_charsmap padding_side truncation_side"
    ),
    harmless={
        **group("says which program wrote the file, and from where", "name_or_path special_tokens_map_file is_local"),
        **group("says which program wrote the file, and from where", "transformers_version local_files_only"),
        **group("both kinds of tokenizer give the same tokens", "use_fast backend processor_class from_slow"),
        **group("is for turning tokens back to text", "clean_up_tokenization_spaces"),
        **group("is for chats", "chat_template"),
        **group("is given in each call", "max_length padding truncation stride pad_to_multiple_of pad_token_type_id"),
        **group("is given in each call", "truncation_strategy model_input_names"),
    },
    refused={"auto_map": CODE["auto_map"]},
)
