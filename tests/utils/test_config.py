"""Values that people write."""

import pytest

from prunet_det.utils.config import positive_int
from prunet_det.utils.errors import InputError


def test_a_positive_integer_is_itself():
    assert positive_int(3, "the batch") == 3


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_anything_else_is_refused(value):
    with pytest.raises(InputError, match=f"the batch must be a positive integer, got {value!r}."):
        positive_int(value, "the batch")
