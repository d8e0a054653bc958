"""Faults on the way to remote objects, each planted."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import random
import re
import threading
import time

import pytest

from diffusion_train.data.storage.base import Changed, Denied, Missing, Range, StorageError
from diffusion_train.data.storage.remote import RemoteStorage
from diffusion_train.data.storage.settings import StorageSettings

SECRET = "CANARY0123456789abcdef"


def _ranges(storage, url, *places):
    version = storage.stat(url).version
    return [Range(url, version, offset, size) for offset, size in places]


def _want(server, ranges):
    return [server.objects["/a.tar"][r.offset : r.offset + r.size] for r in ranges]


def test_ranges_come_back_in_order_and_neighbours_share_a_request(server):
    storage = RemoteStorage(StorageSettings(gap_bytes=1000))
    ranges = _ranges(storage, server.url(), (90_000, 10_000), (500, 0), (2000, 100), (0, 1000), (50_000, 70), (2000, 1))
    assert storage.read(ranges) == _want(server, ranges)
    assert set(server.ranges()) == {"bytes=0-0", "bytes=0-2099", "bytes=50000-50069", "bytes=90000-99999"}
    assert storage.num_retries == 0


def test_no_more_requests_at_a_time_than_set(server):
    storage = RemoteStorage(StorageSettings(num_requests=3, gap_bytes=0))
    ranges = _ranges(storage, server.url(), *((offset, 1) for offset in range(0, 400, 10)))
    server.always = lambda h: (time.sleep(0.005), h.ok())
    assert storage.read(ranges) == _want(server, ranges)
    assert server.most_at_once == 3


def test_an_empty_object(server):
    server.objects["/empty"] = b""
    assert RemoteStorage().stat(server.url("/empty")).size == 0


def test_http_503_then_ok(server, caplog):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (10, 2000))
    server.plan += [lambda h: h.status(503), lambda h: h.status(429), lambda h: h.status(500)]
    with caplog.at_level(logging.INFO):
        assert storage.read(ranges) == _want(server, ranges)
    assert storage.num_retries == 3
    assert "503; again in" in caplog.text


def test_the_server_says_when_to_try_again(server):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (10, 2000))
    server.plan.append(lambda h: h.status(503, Retry_After="1"))
    start = time.monotonic()
    assert storage.read(ranges) == _want(server, ranges)
    assert 1 <= time.monotonic() - start < 2
    server.plan.append(lambda h: h.status(503, Retry_After="3600"))
    with pytest.raises(StorageError, match="503; gave up after 1 attempts"):
        storage.read(ranges)


@pytest.mark.parametrize("how", ["cut", "cut_without_length", "cut_chunked"])
@pytest.mark.parametrize("seed", range(3))
def test_a_connection_cut_in_the_middle_goes_on_from_the_byte_reached(server, how, seed):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (7, 90_000))
    draw = random.Random(seed)
    places = [draw.randrange(40_000) for _ in range(3)]
    server.plan += [lambda h, place=place: getattr(h, how)(place) for place in places]
    assert storage.read(ranges) == _want(server, ranges)
    starts = [int(re.match(r"bytes=(\d+)", asked)[1]) for asked in server.ranges()[1:]]
    assert starts[0] == 7
    assert starts == sorted(starts)
    assert starts[-1] >= 7 + max(places) // 2
    assert storage.num_retries == len(starts) - 1


def test_an_answer_cut_after_its_last_byte_is_whole(server):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (7, 90_000))
    server.plan.append(lambda h: h.cut_chunked(90_000))
    assert storage.read(ranges) == _want(server, ranges)
    assert len(server.seen) == 2


STALLS = ["stall", "stall_in_body", "trickle", "trickle_head", "garbage", "hang_up"]


@pytest.mark.parametrize("how", STALLS)
def test_a_server_that_stalls_ends_in_an_error_in_bounded_time(server, hasty, how):
    ranges = _ranges(hasty, server.url(), (0, 5000))
    server.always = lambda h: getattr(h, how)()
    start = time.monotonic()
    with pytest.raises(StorageError, match=rf"^{re.escape(server.url())}: .*gave up after \d+ attempts"):
        hasty.read(ranges)
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("how", STALLS)
def test_a_server_that_stalls_once_costs_a_retry(server, hasty, how):
    ranges = _ranges(hasty, server.url(), (0, 5000))
    server.plan.append(lambda h: getattr(h, how)())
    assert hasty.read(ranges) == _want(server, ranges)
    assert hasty.num_retries == (how != "hang_up")  # a closed idle connection is opened again by the client itself


def test_nobody_listens(server, hasty):
    ranges = _ranges(hasty, server.url(), (0, 5000))
    server.shutdown()
    server.server_close()
    hasty = RemoteStorage(hasty.settings)
    with pytest.raises(StorageError, match="onnect"):
        hasty.read(ranges)


@pytest.mark.parametrize("etags", [True, False], ids=["etag", "size-alone"])
def test_an_object_replaced_during_the_run_is_an_error(server, etags):
    server.etags = etags
    storage = RemoteStorage(StorageSettings(gap_bytes=0))
    ranges = _ranges(storage, server.url(), (0, 500), (40_000, 500))
    server.objects["/a.tar"] = server.objects["/a.tar"][::-1] + b"" * etags + b"longer" * (not etags)
    with pytest.raises(Changed, match="changed since it was indexed"):
        storage.read(ranges)


def test_an_object_replaced_between_the_pieces_of_one_answer_is_an_error(server):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (0, 50_000))

    def cut_then_replace(handler):
        handler.cut(20_000)
        server.objects["/a.tar"] = server.objects["/a.tar"][::-1]

    server.plan.append(cut_then_replace)
    with pytest.raises(Changed):
        storage.read(ranges)


def test_a_server_that_ignores_if_match_is_not_believed(server):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (0, 500))
    server.objects["/a.tar"] = server.objects["/a.tar"][::-1]
    server.always = lambda h: h.wfile.write(h.part_head())
    with pytest.raises(Changed):
        storage.read(ranges)


@pytest.mark.parametrize("place", [(99_000, 1001), (100_000, 1), (-1, 5)])
def test_a_range_beyond_the_object_is_an_error(server, place):
    storage = RemoteStorage()
    with pytest.raises(Changed, match="the object has 100000 bytes in total"):
        storage.read(_ranges(storage, server.url(), place))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("whole", r"and the whole object \(application/x-tar\): it does not support range requests"),
        ("html", r"server returned 200 and the whole object \(text/html\)"),
        ("other_bytes", "must send bytes 0-0, got 1-1"),
    ],
)
def test_a_server_that_serves_no_ranges_is_told_at_once(server, how, message):
    server.always = lambda h: getattr(h, how)()
    with pytest.raises(StorageError, match=message):
        RemoteStorage().stat(server.url())
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((403, b"<Error><Code>AccessDenied</Code></Error>"), Denied),
        ((401,), Denied),
        ((400, b"<Error><Code>ExpiredToken</Code><Token>%b</Token></Error>" % SECRET.encode()), Denied),
        ((404,), Missing),
        ((410,), Missing),
    ],
    ids=["403", "401", "expired", "404", "410"],
)
def test_denied_or_missing_is_told_at_once(server, answer, kind):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (0, 5))
    server.always = lambda h: h.status(*answer)
    for work in (lambda: storage.stat(server.url()), lambda: storage.read(ranges)):
        with pytest.raises(kind, match=str(answer[0])) as error:
            work()
        assert SECRET not in str(error.value)
    assert len(server.seen) == 3
    assert storage.num_retries == 0


FAULTS = {
    "403": lambda h: h.status(403, SECRET.encode()),
    "404": lambda h: h.status(404),
    "500": lambda h: h.status(500),
    "html": lambda h: h.html(),
    "other-bytes": lambda h: h.other_bytes(),
    "hang-up": lambda h: h.hang_up(),
    "garbage": lambda h: h.garbage(),
    "stall": lambda h: h.stall(),
    "redirect": lambda h: h.status(302, Location=f"ftp://u:{SECRET}@h/?sig={SECRET}"),
    "circle": lambda h: h.status(302, Location=h.path),
    "bad-redirect": lambda h: h.status(302, Location=f"http://[{SECRET}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_secrets_of_a_url_appear_in_no_message(server, hasty, fault, caplog):
    server.objects["/a.tar"] = b"x" * 100
    server.always = FAULTS[fault]
    url = server.url(f"/a.tar?X-Amz-Signature={SECRET}&other={SECRET}").replace("://", f"://me:{SECRET}@")
    with caplog.at_level(logging.DEBUG), pytest.raises(StorageError) as error:
        hasty.stat(url)
    shown = server.url("/a.tar?***").replace("://", "://***@")
    assert str(error.value).startswith(f"{shown}: ")
    while error := getattr(error, "value", error):
        assert SECRET not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert SECRET not in caplog.text


def test_a_signed_url_is_sent_as_it_is(server):
    path = "/a.tar?X-Amz-Credential=a%2Fb%2Faws4_request&X-Amz-Signature=%7Eab+c%3D&x=%e2%82%ac/~"
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(path), (5, 10))
    assert storage.read(ranges) == _want(server, ranges)
    assert [request.path for request in server.seen] == [path, path]


def test_names_are_escaped_where_they_must_be(server):
    server.objects["/%C3%BC%20%20b/a.tar"] = b"abc"
    assert RemoteStorage().stat(server.url("/ü%20 b/a.tar#x")).size == 3


@pytest.mark.parametrize(
    "url", ["http:///a.tar", "http://h/a\r\nX: y", "http://h:99999/a.tar", "http://[/a.tar", "http://a..b/c"]
)
def test_a_malformed_url_is_refused(url):
    with pytest.raises(ValueError, match="is not a valid URL"):
        RemoteStorage().stat(url)


def test_user_and_password_of_a_url_are_used(server):
    RemoteStorage().stat(server.url().replace("://", "://me:pass@"))
    assert server.seen[0].headers["Authorization"] == "Basic bWU6cGFzcw=="


def test_redirects_are_followed(server):
    storage = RemoteStorage()
    server.plan.append(lambda h: h.status(302, Location="/a.tar?sig=a%2Fb"))
    assert storage.stat(server.url("/other")).size == 100_000
    assert server.seen[1].path == "/a.tar?sig=a%2Fb"


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    server.objects["http://far.invalid/a.tar"] = b"abc"
    assert RemoteStorage().stat("http://far.invalid/a.tar").size == 3


def _read_and_send(storage, ranges, pipe):
    pipe.send((storage.read(ranges), storage.num_retries))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_workers_read_however_they_are_started(server, method):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (0, 5000), (90_000, 5000))
    storage.num_retries = 5
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    worker = context.Process(target=_read_and_send, args=(storage, ranges, there))
    worker.start()
    assert storage.read(ranges) == _want(server, ranges)
    assert here.poll(20)
    assert here.recv() == (_want(server, ranges), 5 if method == "fork" else 0)
    worker.join(5)
    assert worker.exitcode == 0
    assert storage.read(ranges) == _want(server, ranges)


def test_settings_alone_travel(server, monkeypatch):
    storage = RemoteStorage(StorageSettings(deadline=5))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    storage.stat(server.url().replace("://", f"://me:{SECRET}@"))
    sent = pickle.dumps(storage)
    assert SECRET.encode() not in sent
    assert pickle.loads(sent).settings == storage.settings


def test_threads_share_a_storage(server):
    storage = RemoteStorage()
    ranges = _ranges(storage, server.url(), (0, 5000), (90_000, 5000))
    results = []
    threads = [threading.Thread(target=lambda: results.append(storage.read(ranges))) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert results == [_want(server, ranges)] * 8


def test_nothing_stays_behind(server):
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    storage = RemoteStorage()
    storage.stat(server.url())
    del storage
    time.sleep(0.1)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) <= before


@pytest.mark.parametrize("name", ["connect_timeout", "read_timeout", "deadline", "min_speed", "num_requests"])
def test_settings_must_be_possible(name):
    with pytest.raises(ValueError, match=rf"^data.storage.{name} must be .*, got 0$"):
        StorageSettings(**{name: 0})
