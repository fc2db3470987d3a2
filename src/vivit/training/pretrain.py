"""Pretraining without labels: a run whose model learns to predict hidden tubes of clips (`vivit.model.masked`).

In all else it is a training run: its folder, steps, checkpoints and resuming. The model in the folder is the encoder;
only the checkpoints have the decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.text import Text
from torch import Tensor

from vivit.data.advice import to_leave_out
from vivit.data.loader import Batch, evaluation_views
from vivit.data.manifest import HASH_DIGITS, data_hash
from vivit.data.order import mask_rng
from vivit.data.readers.listing import open_unlabelled
from vivit.errors import UserError
from vivit.files import write_files
from vivit.inference.views import clip_spec
from vivit.model.masked import MaskedAutoencoder, tubes
from vivit.model.vivit import ViViT
from vivit.progress import console
from vivit.runtime import Ranks, device_name, pick_device, pick_precision
from vivit.training.distributed import distribute, everyones, leaves_process_groups, start_processes, together
from vivit.training.initialise import build_model, start_lines
from vivit.training.loop import Display, StopRequest, Training
from vivit.training.optim import Schedule, build_optimiser
from vivit.training.plan import Plan, build_augmentation, say_faults, say_schedule
from vivit.training.recipe import PretrainRecipe
from vivit.training.run_folder import RunFolder
from vivit.training.sources import FromVideos, Reading
from vivit.training.train import carry_out
from vivit.training.update import Learner, Updater, check_split
from vivit.video.decode import Decoder, ReadOptions
from vivit.video.source import name_of
from vivit.weights.fill import Loaded

PICTURE = "reconstructions.png"
# Videos in the picture, and frames of each.
SHOWN, FRAMES = 4, 8


@leaves_process_groups
def pretrain(
    data: str | Path,
    out: Path,
    recipe: PretrainRecipe,
    *,
    videos: Path | None = None,
    device: str = "auto",
    workers: int = 2,
    keep_decoded: bool = False,
    decoder: Decoder = "pyav",
    timeout: float | None = None,
    checkpoint_every: float = 600.0,
) -> ViViT:
    """Pretrain a model on videos without labels and leave it in the folder `out`.

    The parameters are the options of `vivit pretrain`, and mean the same as for `vivit.training.train.train`. Under
    torchrun, all processes share the work.

    Args:
        data: a folder of videos at any depth, or a data set; see `open_unlabelled`.

    Returns:
        The model in `out`, without a head, in eval mode, on its device.

    Raises:
        UserError, Stopped: as for `train`.
    """
    if not checkpoint_every >= 0:
        raise UserError(f"checkpoint_every: {checkpoint_every:g} seconds; give 0 (after every step) or more")
    options = ReadOptions(decoder, timeout, workers)
    options.check()
    choice = pick_precision(recipe.precision, pick_device(device))
    precision = choice.precision
    accelerator = start_processes(pick_device(device), precision, None, False)
    main, ranks = accelerator.is_main_process, Ranks(accelerator.process_index, accelerator.num_processes, everyones)
    say = console(visible=main).print

    run = RunFolder(out)
    resumed = everyones([run.is_resumable])[0]  # on shared storage, other processes may see an older state
    plan = together(lambda: _plan(data, recipe, videos, ranks.world_size, run.new_model() if resumed else None))
    try:
        settings = {"keep_decoded": keep_decoded, "overfit": None, "keep": "last"}
        together(lambda: run.claim(plan, data, None, videos, settings, say) if main else None)
        autoencoder = _autoencoder(plan.model, recipe)
        _say_plan(say, plan, ranks.world_size)
        say(_masking(autoencoder, recipe))
        together(lambda: say_faults(say, plan, data, videos) if main else None)
        say(f"on {device_name(accelerator.device)} in {choice}")

        autoencoder.to(accelerator.device)
        network = distribute(autoencoder, accelerator, False, precision)
        learner = Learner(autoencoder, network, build_optimiser(autoencoder, recipe), plan.model)
        on_device = accelerator.device.type == "cuda"
        update = Reconstructing(learner, accelerator, recipe, plan.labels, plan.augmentation if on_device else None)
        stop, display = StopRequest(), Display(plan.schedule, visible=main)
        reading = Reading(options, ranks, lambda: stop.signal != 0, display.status)
        source = FromVideos(plan, reading, colours=not on_device, keep_decoded=keep_decoded)
        carry_out(_Pretraining(plan, run, update, source, stop, display, checkpoint_every), say)
        return plan.model.eval()
    finally:
        run.release()


def _plan(
    data: str | Path, recipe: PretrainRecipe, videos: Path | None, processes: int, resumed_model: ViViT | None
) -> Plan:
    """Like `plan_run`, for videos without labels."""
    train_set = open_unlabelled(data, videos)
    if resumed_model is None:
        torch.manual_seed(recipe.seed)
        start = build_model(recipe, train_set, None, name_of(data))
    else:
        start = Loaded(resumed_model.train())
    schedule = Schedule.planned(recipe, len(train_set.videos))
    check_split(schedule.batch_size, recipe, processes)
    nothing = replace(train_set, videos=())
    return Plan(
        recipe,
        name_of(data),
        train_set,
        nothing,
        {"train_hash": data_hash(train_set), "val_hash": ""},
        {},
        build_augmentation(recipe),
        start,
        resumed_model is not None,
        schedule,
        to_leave_out(data, videos, train_set.videos),
    )


def _say_plan(say: Callable[[str], object], plan: Plan, processes: int) -> None:
    train_set = plan.train_set
    count, hashed = len(train_set.videos), plan.hashes["train_hash"][:HASH_DIGITS]
    say(f"pretrain on {count} videos (data {hashed}): {train_set.description}")
    for line in (*train_set.remarks, *start_lines(plan.start, plan.recipe, None, count)):
        say(line)
    say_schedule(say, plan.recipe, plan.schedule, processes)


def _autoencoder(model: ViViT, recipe: PretrainRecipe) -> MaskedAutoencoder:
    """The model with a fresh decoder, which depends on the seed alone. Raises UserError if it is model 3 or 4."""
    torch.manual_seed(recipe.seed)
    try:
        return MaskedAutoencoder(model, recipe.decoder_layers, recipe.decoder_size).train()
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def _masking(autoencoder: MaskedAutoencoder, recipe: PretrainRecipe) -> str:
    """Say how much is hidden and how large the decoder is."""
    (visible,), (hidden,) = tubes([mask_rng(0, 0, 0)], autoencoder.places, recipe.mask_ratio)
    size = sum(parameter.numel() for parameter in autoencoder.decoder.parameters())
    return (
        f"{len(hidden)} of {len(visible) + len(hidden)} tubes of a clip are hidden; a decoder of {size / 1e6:.2g} M "
        "parameters predicts them"
    )


class Reconstructing(Updater):
    """Updates on the mean squared error of the hidden tubelets' normalised pixels."""

    def loss(self, batch: Batch, chosen: Tensor, step: int, epoch: int) -> Tensor:
        assert isinstance(self.recipe, PretrainRecipe) and isinstance(self.learner.model, MaskedAutoencoder)
        clips, _ = self._prepared(batch, chosen, step, epoch)
        rngs = [mask_rng(self.recipe.seed, epoch, index) for index in batch.indices[chosen].tolist()]
        masks = tubes(rngs, self.learner.model.places, self.recipe.mask_ratio)
        predicted, pixels = self.learner.network(clips, *(places.to(clips.device) for places in masks))
        return F.mse_loss(predicted.float(), pixels)


@dataclass
class _Pretraining(Training):
    """A run that saves its weights where supervised training would score them."""

    def score(self) -> None:
        """Save the encoder and a picture of its reconstructions."""
        self.learner.update_kept()
        if not self.accelerator.is_main_process:
            return
        row = {"epoch": self.done // self.schedule.steps_per_epoch, "step": self.done, "loss": self.mean_loss}
        self.run.models.save(self.learner.kept, row, {}, "")
        self._draw()
        # Only after the model is saved: a recorded epoch is not repeated.
        self.run.note_epoch(row)
        line = f"epoch {row['epoch']:3d}  loss {self.mean_loss:.3f}"
        self.display.progress.console.print(Text(line), soft_wrap=True)

    def _draw(self) -> None:
        """Write the picture: three rows of frames for each of the first readable videos."""
        autoencoder, recipe = self.learner.model, self.plan.recipe
        assert isinstance(autoencoder, MaskedAutoencoder) and isinstance(recipe, PretrainRecipe)
        few = self.plan.train_set.videos[: 2 * SHOWN]
        read = replace(self.source.reading.options, workers=0)
        views = evaluation_views(few, clip_spec(self.plan.model), 1, 1, read)
        clips = list(islice((found for found in views if isinstance(found, Tensor)), SHOWN))
        if not clips:
            return
        video = torch.cat(clips).to(self.accelerator.device)
        rngs = [mask_rng(recipe.seed, 0, number) for number in range(len(video))]
        masks = tubes(rngs, autoencoder.places, recipe.mask_ratio)
        autoencoder.eval()
        with self.accelerator.autocast():
            rows = autoencoder.reconstruct(video, *(places.to(video.device) for places in masks))
        autoencoder.train()
        image = Image.fromarray(_mosaic(rows.transpose(0, 1).flatten(0, 1)))
        write_files({self.run.path / PICTURE: lambda path: image.save(path, format="PNG")})


def _mosaic(clips: Tensor) -> np.ndarray:
    """A row of frames for each clip: (R, frames, C, height, width) in [−1, 1] → (R · height, …, C) uint8."""
    frames = clips.shape[1]
    chosen = torch.linspace(0, frames - 1, min(frames, FRAMES)).round().long()
    pixels = ((clips[:, chosen] + 1) * 127.5).round().byte().cpu()
    padded = F.pad(pixels, (0, 2, 0, 2), value=255)  # a white line between frames
    return padded.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()  # (R, height, frames, width, C)
