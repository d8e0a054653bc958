"""Text loses its secrets, by the name before them or by their form."""

from __future__ import annotations

import pytest

from diffusion_train.utils.redact import is_secret, redact_text

SECRET = "CANARY0123456789abcdef"
NAMES = (
    "token hub_token hf-token password db_passwd secret client_secret api_key wandbApiKey WANDB_API_KEY access_key "
    "aws_secret_access_key authorization credentials private_key accountKey auth sas"
)


@pytest.mark.parametrize("key", NAMES.split())
def test_secrets_by_name(key):
    assert is_secret(key)
    assert redact_text(f"{key}={SECRET}") == f"{key}=***"
    assert redact_text(f"+logger.wandb.{key}='{SECRET}'") == f"+logger.wandb.{key}=***"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"https://me:{SECRET}@host/x.tar", "https://***@host/x.tar"),
        (f"s3://{SECRET}@bucket/x", "s3://***@bucket/x"),
        (f"https://h/x?X-Amz-Date=1&X-Amz-Signature={SECRET}#f", "https://h/x?X-Amz-Date=***&X-Amz-Signature=***#f"),
        (f"https://h/x?sv=2&sig={SECRET}", "https://h/x?sv=2&sig=***"),
        (f"https://h/x?a=1&token={SECRET}", "https://h/x?a=1&token=***"),
        (f"https://h/x?X-Goog-Credential={SECRET}", "https://h/x?X-Goog-Credential=***"),
        (f"Bearer {SECRET}", "Bearer ***"),
        (f"use hf_{SECRET} there", "use *** there"),
    ],
)
def test_secrets_by_form(text, wanted):
    assert redact_text(text) == wanted


@pytest.mark.parametrize("name", ["pad_token", "tokenizer", "monkey", "keys"])
def test_names_of_what_is_no_secret(name):
    assert not is_secret(name)
