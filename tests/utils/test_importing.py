from __future__ import annotations

import gc
import importlib

from diffusion_train.utils.process.importing import many_imports


def test_the_collector_pauses_for_imports_and_leaves_them_out_later(tmp_path, monkeypatch):
    (tmp_path / "a_new_module.py").write_text("import gc; enabled = gc.isenabled()")
    monkeypatch.syspath_prepend(tmp_path)
    frozen = gc.get_freeze_count()
    try:
        with many_imports():
            pass
        assert gc.get_freeze_count() == frozen
        with many_imports():
            with many_imports():
                module = importlib.import_module("a_new_module")
            assert not gc.isenabled()
        assert not module.enabled
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
