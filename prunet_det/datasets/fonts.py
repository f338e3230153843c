"""The typefaces inside the installed matplotlib, for Pillow to draw with."""

from functools import cache
from pathlib import Path
from typing import Any


@cache
def load_font(face: str, pixels: int) -> Any:
    """A face such as `DejaVuSans-Bold` at a size.

    Raises:
        FileNotFoundError: The installed matplotlib lacks it.
    """
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed matplotlib has no face {face}; reinstall the version that "
            "constraints.txt pins."
        )
    # The basic layout is the same with and without the optional raqm.
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)
