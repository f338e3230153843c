"""Values that people write."""

import copy

import pytest

from prunet_det.utils.config import positive_int, read_config
from prunet_det.utils.errors import InputError, MissingFileError


def test_a_positive_integer_is_itself():
    assert positive_int(3, "the batch") == 3


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_anything_else_is_refused(value):
    with pytest.raises(InputError, match=f"the batch must be a positive integer, got {value!r}."):
        positive_int(value, "the batch")


def test_a_config_of_the_package_as_a_base(tmp_path):
    pytest.importorskip("mmengine")
    import prunet_det.training  # noqa: F401 (what lets MMEngine find our configs)

    mine = tmp_path / "mine.py"
    mine.write_text('_base_ = ["prunet_det::_base_/../prunet_effdet.py"]\nmax_iters = 7\n')
    cfg = read_config(mine)
    assert (cfg.max_iters, cfg.model.backbone.arch) == (7, "prunet_demo")
    assert "_scope_" not in cfg.pretty_text


def test_a_config_is_written_without_yapf(tmp_path, monkeypatch):
    """A runner does it six times before the first iteration; what is written is read again."""
    config = pytest.importorskip("mmengine.config")
    from yapf.yapflib import yapf_api

    monkeypatch.setattr(yapf_api, "FormatCode", None)
    cfg = copy.deepcopy(read_config("configs/prunet_effdet.py", {"max_iters": 7}))
    cfg.dump(tmp_path / "written.py")
    monkeypatch.undo()
    written = config.Config.fromfile(tmp_path / "written.py", import_custom_modules=False)
    assert written.to_dict() == cfg.to_dict()


def test_a_config_that_is_not_there():
    with pytest.raises(MissingFileError, match=r"no config file none\.py"):
        read_config("none.py")
