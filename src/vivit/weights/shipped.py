"""The model inside the package, and what a model folder may say about its answers."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vivit.text import printable
from vivit.weights.files import read_record

CAMERA_MOTION = "camera-motion"
ANSWERS_FILE = "answers.json"


def shipped_model(name: str) -> Path | None:
    """The folder of the model that the package has under this name."""
    return Path(__file__).parent / "shipped" / CAMERA_MOTION if name == CAMERA_MOTION else None


class Answers(BaseModel):
    """The content of `answers.json`, which a model folder may have beside the weights."""

    model_config = ConfigDict(extra="forbid")

    about: Annotated[str, AfterValidator(printable)]
    """What the model answers, and how well, in one line."""
    unsure_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    """If its best label has a lower probability, the model is not sure."""

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """What a model folder says, if it says anything. Raises UserError if the file is damaged."""
        path = folder / ANSWERS_FILE
        return read_record(path, cls) if path.is_file() else None
