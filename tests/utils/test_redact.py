"""Text loses its secrets, by the name before them or by their form."""

from __future__ import annotations

import pytest

from diffusion_train.utils.redact import is_secret, redact_text

SECRET = "CANARY0123456789abcdef"
NAMES = (
    "token hub_token hf-token password db_passwd secret client_secret api_key wandbApiKey WANDB_API_KEY access_key "
    "aws_secret_access_key authorization credentials private_key accountKey auth sas passwords api_keys apikey2 "
    "passcode pw db_password_prod token_value secret_value private_key_pem credentials_json hub_tokens APIKey"
)


@pytest.mark.parametrize("key", NAMES.split())
def test_secrets_by_name(key):
    assert is_secret(key, declared=True)
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
        (f"wandb_v1_{SECRET} sk_live_{SECRET}", "*** ***"),
        (f"local-{'0123456789' * 4} is a key of W&B", "*** is a key of W&B"),
        (f"password: {SECRET}", "password: ***"),
        (f"a: 1\npassword : {SECRET} with spaces\nb: 2", "a: 1\npassword : ***\nb: 2"),
        (f'{{"password": "{SECRET}", "a": 1}}', '{"password": "***", "a": 1}'),
        (f'{{"db": {{"password": {SECRET}}}, "a": 1}}', '{"db": {"password": "***"}, "a": 1}'),
        (rf'"{{\"api_key\": \"{SECRET}\"}}"', r'"{\"api_key\": \"***\"}"'),
        (f"{{'token': '{SECRET}', 'a': 1}}", "{'token': '***', 'a': 1}"),
        (rf'"password": "a\"{SECRET}", "a": 1', '"password": "***", "a": 1'),
        (f"password: 'a''{SECRET}'", "password: ***"),
        (f"https://h/x?pass={SECRET}", "https://h/x?pass=***"),
        (f"run --password {SECRET}", "run --password ***"),
        (f"run --hub-token='{SECRET}' now", "run --hub-token=*** now"),
        (f"Authorization: Token {SECRET}", "Authorization: ***"),
        (f"a=1 password={SECRET}", "a=1 password=***"),
    ],
)
def test_secrets_by_form(text, wanted):
    assert redact_text(text) == wanted


NO_SECRETS = "pad_token tokenizer monkey keys text_key max_tokens num_tokens max_new_tokens token_dim num_passes author"


@pytest.mark.parametrize("name", NO_SECRETS.split())
def test_names_of_what_is_no_secret(name):
    assert not is_secret(name, declared=False)
    assert redact_text(f"{name}=abc {name}: abc") == f"{name}=abc {name}: abc"


@pytest.mark.parametrize("name", ["key", "sig", "pin", "encryption_key", "KEY_PROD"])
def test_names_of_secrets_unless_they_are_declared(name):
    assert is_secret(name, declared=False)


@pytest.mark.parametrize("text", ["password=null", '{"password": null, "a": ""}', "token: ***", 'token=""', "token:"])
def test_no_value_is_no_secret(text):
    assert redact_text(text) == text
