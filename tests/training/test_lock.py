"""One training at a time in a work dir."""

from __future__ import annotations

import multiprocessing

import pytest
from mmengine.config import Config

from prunet_det.training import lock
from prunet_det.training.lock import work_dir_lock
from prunet_det.utils.errors import UserError


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_GRACE", 0.1)
    return Config(dict(work_dir=str(tmp_path / "work"), launcher="none"))


def hold(cfg, held):
    with work_dir_lock(cfg):
        held.set()
        multiprocessing.Event().wait()


def test_a_second_training_is_refused_until_the_first_is_killed(cfg, monkeypatch):
    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    first = fork.Process(target=hold, args=(cfg, held))
    first.start()
    assert held.wait(30)
    sentence = "another training works in .*work; wait for its end"
    with pytest.raises(UserError, match=sentence), work_dir_lock(cfg):
        pass
    cfg.launcher = "pytorch"
    monkeypatch.setenv("RANK", "1")
    with work_dir_lock(cfg):  # of the same training: the first process has the lock
        pass
    monkeypatch.setenv("RANK", "0")
    first.kill()
    first.join()
    for _ in range(2):
        with work_dir_lock(cfg):
            pass


def test_an_error_of_the_training_stays_what_it_is(cfg):
    with pytest.raises(TimeoutError), work_dir_lock(cfg):
        raise TimeoutError
    with work_dir_lock(cfg):
        pass
