"""The package as a whole."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from prunet_det.utils.extras import importing


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_large_imports_are_not_searched_for_garbage():
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        loop: list = []
        loop.append(loop)
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.slow
def test_detection_names_the_extra():
    code, output = python("import sys; sys.modules['mmdet'] = None; import prunet_det.detection")
    assert code == 1
    assert "pip install 'prunet_det[det]'" in output and "doctor.py" in output
