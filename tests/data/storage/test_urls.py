from __future__ import annotations

import pytest

from diffusion_train.data.storage.by_scheme import StorageByScheme
from diffusion_train.data.storage.urls import local_path, scheme_of
from diffusion_train.utils.redact import redact_url, redact_urls


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("shards/a-000.tar", "file"),
        ("/data/part:1 {x}=?.tar", "file"),
        ("file:///data/a.tar", "file"),
        ("http://h/a.tar", "http"),
        ("HTTPS://h/a.tar", "https"),
        ("s3://bucket/a.tar", "s3"),
        ("gs://bucket/a.tar", "gs"),
    ],
)
def test_schemes_that_can_be_read(url, scheme):
    assert scheme_of(url) == scheme


@pytest.mark.parametrize(
    "url", ["pipe:touch canary", " PIPE:touch canary", "pipe://touch canary", "ftp://h/a.tar", "hdfs://h/a", "hf://x/y"]
)
def test_a_shard_url_that_would_run_something_or_lies_elsewhere_is_refused_by_name(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^unsupported URL scheme '{url.strip().partition(':')[0].lower()}'; use "):
        StorageByScheme().stat(url)
    assert not list(tmp_path.iterdir())


def test_nothing_in_a_url_is_replaced_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("HOME", "/a.tar")
    with pytest.raises(RuntimeError, match="no such object"):
        StorageByScheme().stat(server.url("/$HOME"))
    assert server.seen[0].path == "/$HOME"


def test_file_urls_are_paths():
    assert local_path("file:///data/a%20b.tar") == local_path("FILE://localhost/data/a%20b.tar") == "/data/a b.tar"
    with pytest.raises(ValueError, match="another host"):
        local_path("file://nas/a.tar")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pass@h/x.tar?X-Amz-Signature=abc&x=1", "https://***@h/x.tar?***"),
        ("https://h/x.tar?ticket=abc", "https://h/x.tar?***"),
        ("s3://bucket/x.tar", "s3://bucket/x.tar"),
        ("/data/what?.tar", "/data/what?.tar"),
    ],
)
def test_a_shown_url_does_not_open_anything(url, shown):
    assert redact_url(url) == shown


def test_urls_inside_a_text_lose_their_signature():
    text = "no https://me:pass@h/x?page=3&sig=abc here"
    assert redact_urls(text) == "no https://***@h/x?page=3&sig=*** here"
