from __future__ import annotations

import os

import pytest

from diffusion_train.data.storage.base import Denied, Missing, NoRanges, StorageError
from diffusion_train.data.storage.remedy import remedy


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("s3://b/a.tar", Denied, ["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]),
        ("s3://b/a.tar", Missing, ["bucket", "data.shards", "AWS_ENDPOINT_URL is not set"]),
        ("s3://b/a.tar", StorageError, ["AWS_ENDPOINT_URL", "AWS_REGION", "HTTPS_PROXY"]),
        ("gs://b/a.tar", Denied, ["GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth"]),
        ("https://h/a.tar?sig=canary", Denied, ["signed URL", "expired", "https://user:password@host/"]),
        ("https://h/a.tar", Missing, ["address", "data.shards"]),
        ("https://h/a.tar", StorageError, ["host in data.shards", "HTTPS_PROXY", "NO_PROXY"]),
        ("http://h/a.tar", NoRanges, ["address in data.shards", "nginx", "range requests"]),
        ("a.tar", Missing, ["spelling of data.shards", os.getcwd()]),
        ("a.tar", Denied, ["user", "chmod"]),
        ("a", StorageError, ["folder/*.tar"]),
    ],
)
def test_each_fault_says_what_to_check(url, kind, words, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    told = remedy(url, kind("it failed"))
    assert [word for word in words if word not in told] == []
    assert "canary" not in told


def test_the_address_of_a_store_is_not_shown(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:canary@store")
    told = remedy("s3://b/a.tar", Missing("404"))
    assert "AWS_ENDPOINT_URL is set" in told
    assert "canary" not in told
