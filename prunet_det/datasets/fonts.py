"""The typefaces inside the installed matplotlib, for Pillow to draw with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from prunet_det.utils.errors import MissingFileError

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


@cache
def load_font(face: str, pixels: int) -> FreeTypeFont:
    """Loads a typeface of matplotlib.

    Args:
        face: Name of the font file without its suffix, such as `DejaVuSans-Bold`.
        pixels: Font size.

    Raises:
        MissingFileError: If the installed matplotlib lacks the face.
    """
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise MissingFileError(
            f"the installed matplotlib has no face {face}; reinstall the version that "
            "constraints.txt pins."
        )
    # The basic layout is the same with and without the optional raqm.
    return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)
