import subprocess
import sys

import vivit


def test_completion_lists_the_public_names_and_each_of_them_can_be_imported() -> None:
    names = [name for name in dir(vivit) if not name.startswith("__")]
    assert {"ModelConfig", "ViViT", "Predictor", "load", "save", "push_to_hub", "adapt", "from_scenic"} <= set(names)
    assert {"Rule", "Stream", "Timeline", "stream", "timeline"} <= set(names)
    assert names == sorted(vivit.__all__)
    assert all(getattr(vivit, name) for name in names)


def test_torch_is_not_imported_before_a_name_that_needs_it() -> None:
    command = "import sys, vivit; dir(vivit); vivit.ModelConfig; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
