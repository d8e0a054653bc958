"""s3:// and gs:// against a server that only looks at the request;
tests/data/storage/test_servers.py has a real one.
"""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from diffusion_train.data.storage.base import Denied, Range, StorageError
from diffusion_train.data.storage.remote import RemoteStorage

KEY, SECRET, TOKEN = "AKIACANARY0123456789", "secretCANARY", "tokenCANARY"


@pytest.fixture(autouse=True)
def _environment(server, tmp_path, monkeypatch):
    """No credentials of whoever runs the tests."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url(""))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url(""))


@pytest.fixture
def _keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_REGION", "eu-west-7")


@pytest.mark.usefixtures("_keys")
def test_s3_signs_with_the_keys_of_the_environment(server):
    server.objects["/bucket/a%20b/%C3%BC%3F.tar"] = b"abcdef"
    storage = RemoteStorage()
    url = "s3://bucket/a b/ü?.tar"
    size, version = storage.stat(url)
    assert storage.read([Range(url, version, 2, size - 2)]) == [b"cdef"]
    signed = server.seen[1].headers["Authorization"]
    assert f"Credential={KEY}/" in signed
    assert "/eu-west-7/s3/aws4_request" in signed
    assert "if-match;range" in signed
    assert server.seen[1].headers["X-Amz-Security-Token"] == TOKEN


def test_s3_by_a_profile(server, tmp_path, monkeypatch):
    server.objects["/bucket/a.tar"] = b"abcdef"
    (tmp_path / "none").write_text(
        f"[profile mine]\n[mine]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "mine")
    RemoteStorage().stat("s3://bucket/a.tar")
    assert f"Credential={KEY}/" in server.seen[0].headers["Authorization"]
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(Denied, match=r"^s3://bucket/a.tar: the request cannot be signed \(ProfileNotFound\)"):
        RemoteStorage().stat("s3://bucket/a.tar")


def test_without_credentials_s3_and_gs_are_asked_anonymously(server):
    server.objects["/bucket/a.tar"] = b"abcdef"
    for scheme in ("s3", "gs"):
        assert RemoteStorage().stat(f"{scheme}://bucket/a.tar").size == 6
    assert [request.headers["Authorization"] for request in server.seen] == [None, None]
    server.always = lambda h: h.status(403)
    for scheme, where in (("s3", "AWS_PROFILE"), ("gs", "GOOGLE_APPLICATION_CREDENTIALS")):
        with pytest.raises(Denied, match=f"no credentials .*{where}"):
            RemoteStorage().stat(f"{scheme}://bucket/a.tar")


@pytest.mark.usefixtures("_keys")
def test_secrets_of_s3_appear_in_no_message(server, caplog):
    body = f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId>{SECRET}{TOKEN}</Error>"
    server.always = lambda h: h.status(403, body.encode())
    with caplog.at_level(0), pytest.raises(Denied, match=r"^s3://bucket/a.tar: .*403 SignatureDoesNotMatch$") as error:
        RemoteStorage().stat("s3://bucket/a.tar")
    assert not [word for word in (KEY, SECRET, TOKEN) if word in str(error.value) + caplog.text]


@pytest.mark.usefixtures("_keys")
def test_a_bucket_of_another_region_is_told_and_keys_are_sent_nowhere_else(server):
    server.always = lambda h: h.status(301, Location=server.url("/other"), x_amz_bucket_region="eu-north-9")
    with pytest.raises(StorageError, match="set AWS_DEFAULT_REGION=eu-north-9"):
        RemoteStorage().stat("s3://bucket/a.tar")
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3:///a.tar", "s3://key:secret@bucket/a.tar", "gs://bucket/", "gs://b/\x1b[2J"]
)
def test_a_bucket_and_a_name_and_no_more(url):
    with pytest.raises(ValueError, match="://bucket/name; credentials come from the environment") as error:
        RemoteStorage().stat(url)
    assert "key:secret" not in str(error.value)


def test_gs_with_a_service_account(server, tmp_path, monkeypatch):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "me@x",
        "private_key": key.decode(),
        "token_uri": server.url("/token"),
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    server.objects["/bucket/a%20b.tar"] = b"abcdef"
    token = json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode()
    server.plan.append(lambda h: h.status(200, token, Content_Type="application/json"))
    storage = RemoteStorage()
    url = "gs://bucket/a b.tar"
    assert storage.read([Range(url, storage.stat(url).version, 2, 4)]) == [b"cdef"]
    assert [request.headers["Authorization"] for request in server.seen[1:]] == [f"Bearer {TOKEN}"] * 2
    server.plan.append(lambda h: h.status(401, json.dumps({"error": TOKEN}).encode()))
    with pytest.raises(Denied, match=r"cannot be signed \(RefreshError\)") as error:
        RemoteStorage().stat(url)
    assert TOKEN not in str(error.value)
