"""Fit a model's weights to another clip, tubelet length or other classes."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.labels import as_classes, head_fields, in_words
from vivit.model.embedding import resize_positions
from vivit.model.vivit import ViViT
from vivit.weights.fill import Loaded
from vivit.weights.weight_file import by

KernelInit = Literal["filter_inflation", "central_frame"]
TubeletInit = Literal["central_frame", "filter_inflation", "random"]
Classes = Sequence[str] | Mapping[str, Sequence[str]]

CHANGEABLE = (
    *("num_frames", "image_size", "tubelet_size", "embedding", "sampled_frames"),
    *("num_classes", "heads", "adapter_size", "attentive_pooling"),
    # No weights depend on these.
    *("multi_label", "dropout", "attention_dropout", "stochastic_depth", "token_dropping"),
)
ADAPTER, POOLER = "encoder.adapter.", "pooler."


@dataclass(frozen=True)
class Wishes:
    """What the user asks of the weights: fields of `ModelConfig`, class names, and how to make the tubelet kernel."""

    fields: Mapping[str, Any]
    classes: Mapping[str, tuple[str, ...]] | None = None
    """head → class names in order."""
    tubelet_init: TubeletInit | None = None
    """None: `central_frame` from an image model, `filter_inflation` from a video model."""

    @property
    def counts(self) -> dict[str, int] | None:
        """head → number of its classes; None without class names."""
        return None if self.classes is None else {head: len(names) for head, names in self.classes.items()}

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], classes: Classes | None = None, tubelet_init: TubeletInit | None = None
    ) -> Self:
        """Leave out fields that are None. Raises UserError if the classes are not lists of names."""
        if tubelet_init not in (None, "central_frame", "filter_inflation", "random"):
            raise UserError(f'tubelet_init: "central_frame", "filter_inflation" or "random", not {tubelet_init!r}')
        try:
            names = None if classes is None else as_classes(classes)
        except ValueError as error:
            raise UserError(str(error)) from None
        return cls({name: value for name, value in fields.items() if value is not None}, names, tubelet_init)


def adapt(
    model: ViViT, *, tubelet_init: KernelInit = "filter_inflation", classes: Classes | None = None, **changes: Any
) -> ViViT:
    """A copy of a model, fitted to another clip, tubelet length or other classes.

    Position embeddings are interpolated along time, height and width; a class token's position stays. A fresh head is
    zero, and a fresh adapter is the identity. With fresh attentive pooling, the heads are fresh too. Each change
    becomes a line of the copy's `origin` and is logged.

    Args:
        tubelet_init: how the kernel changes its number of frames. `filter_inflation` spreads it evenly (equation 8): a
            video played slower gives the same tokens. `central_frame` keeps it together in the middle (equation 9).
            Both give the same tokens for a still video.
        classes: class names in order, or head → class names. The model's own names in another order reorder the rows
            of the head; other names give a fresh head.
        changes: `num_frames`, `image_size`, `tubelet_size`, `embedding`, `sampled_frames`, `num_classes`, `heads`,
            `adapter_size`, `attentive_pooling=True`, `multi_label`, and the rates of dropout: fields of `ModelConfig`.

    Raises:
        UserError: a field that cannot change, or a change that gives no consistent model.
    """
    return fit(copy.deepcopy(model), Wishes.of(changes, classes, tubelet_init)).log()


def fit(model: ViViT, wishes: Wishes) -> Loaded:
    """As `adapt`, but reuse the parameters of `model`, which must not be used afterwards."""
    if wishes.tubelet_init == "random":
        raise UserError('tubelet_init: a video model\'s kernel is kept; use "filter_inflation" or "central_frame"')
    init = wishes.tubelet_init or "filter_inflation"
    old = model.config
    new = _changed(old, wishes)
    if new == old and wishes.classes in (None, model.classes):
        return Loaded(model)

    notes: list[str] = []
    state = dict(model.state_dict())
    _fit_positions(state, new, notes)
    if (before := old.tubelet_size[0]) != (after := new.tubelet_size[0]):
        how = "re-centred"
        if init == "filter_inflation":
            how = "inflated" if after > before else "summed up"
        notes.append(f"tubelet kernel {how} from {before} to {after} frames")
        state["embedding.weight"] = resize_kernel(state["embedding.weight"], after, init)
    if (new.embedding, new.sampled_frames) != (old.embedding, old.sampled_frames):
        sampled = f"{new.sampled_frames} frames of {new.num_frames} sampled uniformly"
        notes.append(sampled if new.embedding == "uniform_frames" else "tubelets instead of single frames")
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    classes, fresh = _fit_heads(model, new, wishes.classes, state, notes)
    preprocessing = _fit_preprocessing(model.preprocessing, old, new, notes)
    drawn: tuple[str, ...] = ()
    if new.adapter_size != old.adapter_size:
        drawn = (ADAPTER,)
        notes.append(f"fresh adapter of width {new.adapter_size}, untrained: it changes nothing yet")
    if new.attentive_pooling != old.attentive_pooling:
        drawn = (*drawn, POOLER)
        notes.append("fresh attentive pooling, untrained")

    try:
        with torch.device("cpu" if drawn else "meta"):
            fitted = ViViT(new, classes=classes, preprocessing=preprocessing, origin=(*model.origin, *notes))
    except ValueError as error:
        raise UserError(str(error)) from None
    if drawn:
        dtype = state["embedding.weight"].dtype
        state = {name: value for name, value in state.items() if not name.startswith(drawn)}
        state |= {name: value.to(dtype) for name, value in fitted.state_dict().items() if name.startswith(drawn)}
    fitted.load_state_dict(state, assign=True)
    for name, parameter in fitted.named_parameters():
        parameter.requires_grad_(name in fresh or trained.get(name, True))
    return Loaded(fitted.train(model.training), tuple(notes))


def resize_kernel(kernel: Tensor, frames: int, how: KernelInit) -> Tensor:
    """Resize a kernel (D, C, t, h, w) to tubelets of another length; the sum over its frames stays the same.

    For a kernel of one frame these are equations 8 and 9 of the paper.
    """
    length = kernel.shape[2]
    weights = kernel.new_zeros(frames, length)  # new frame, old frame
    if how == "filter_inflation":
        for new in range(frames):
            for old in range(length):
                # With both kernels stretched to the same length, frames exchange what overlaps.
                overlap = min((new + 1) * length, (old + 1) * frames) - max(new * length, old * frames)
                weights[new, old] = max(overlap, 0) / frames
    else:
        for old in range(length):
            weights[min(max(old + frames // 2 - length // 2, 0), frames - 1), old] = 1
    return torch.einsum("nt,dcthw->dcnhw", weights, kernel).contiguous()


def _changed(old: ModelConfig, wishes: Wishes) -> ModelConfig:
    """The new config. Raises UserError if the weights cannot be adapted, or the wishes contradict each other."""
    changes = dict(wishes.fields)
    for field, value in changes.items():
        if field in ModelConfig.model_fields and field not in CHANGEABLE and value != getattr(old, field):
            raise UserError(
                f"{field}: you gave {value}, but the weights have {getattr(old, field)}, which cannot change"
            )
    if (counts := wishes.counts) is not None:
        named = head_fields(counts)
        for field, value in named.items():
            if changes.get(field) not in (None, value):
                raise UserError(f"{field}: you gave {changes[field]}, but classes names {counts}")
        changes |= {field: value for field, value in named.items() if value is not None}
    fields = old.model_dump()
    if "num_classes" in changes:
        fields["heads"] = None
    if "heads" in changes:
        fields["num_classes"] = None
    if changes.get("embedding") == "tubelet":
        fields["sampled_frames"] = None
    if old.attentive_pooling and not changes.get("attentive_pooling", True):
        raise UserError("attentive_pooling: you gave False, but the weights classify what it gathers; leave it out")
    try:
        new = ModelConfig(**{**fields, **changes})
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    if new.tubelet_size[1:] != old.tubelet_size[1:]:
        raise UserError(
            f"tubelet_size: you gave {new.tubelet_size}, but only the first number, the frames, of the weights' "
            f"{old.tubelet_size} can change"
        )
    frames, *_ = changes.get("tubelet_size", (1,))
    if new.embedding == "uniform_frames" and frames != 1:
        raise UserError(
            f"tubelet_size: you gave {changes['tubelet_size']}, but the model embeds single frames; "
            'embedding="tubelet" turns them into tubelets'
        )
    return new


def _fit_positions(state: dict[str, Tensor], new: ModelConfig, notes: list[str]) -> None:
    times, *places = new.grid
    grids: dict[str, tuple[str, tuple[int, ...]]] = {
        "encoder.positions.embedding": ("positions", new.grid),
        "encoder.spatial.positions.embedding": ("spatial positions", tuple(places)),
        "encoder.temporal.positions.embedding": ("temporal positions", (times,)),
        "pooler.positions": ("positions of the attentive pooling", (times,)),
    }
    for name, (what, grid) in grids.items():
        if name in state:
            if (before := tuple(state[name].shape[:-1])) != grid:
                notes.append(f"{what} resized from {by(before)} to {by(grid)}")
            state[name] = resize_positions(state[name], grid)


def _fit_heads(
    model: ViViT,
    new: ModelConfig,
    wanted: Mapping[str, tuple[str, ...]] | None,
    state: dict[str, Tensor],
    notes: list[str],
) -> tuple[Mapping[str, tuple[str, ...]] | None, list[str]]:
    """Reorder the rows of heads in `state`, or replace heads by fresh ones.

    Returns the model's class names and the names of the fresh parameters.
    """
    old, classes = model.config.class_counts, dict(model.classes or {})
    for head, theirs in classes.items():
        names = (wanted or {}).get(head, theirs)
        # With two classes of the same name, the rows cannot be told apart.
        if names != theirs and sorted(names) == sorted(theirs) and len(set(names)) == len(names):
            rows = {name: row for row, name in enumerate(theirs)}
            for parameter in (f"heads.{head}.weight", f"heads.{head}.bias"):
                state[parameter] = state[parameter][[rows[name] for name in names]]
            classes[head] = names
            notes.append(f"the {in_words({head: len(names)})} classes of the head reordered")
    kept = {
        head
        for head, count in new.class_counts.items()
        if old.get(head) == count
        and new.attentive_pooling == model.config.attentive_pooling
        and (wanted is None or classes.get(head) in (None, wanted.get(head)))
    }
    before = {head: (state.pop(f"heads.{head}.weight"), state.pop(f"heads.{head}.bias")) for head in old}
    fresh = []
    for head, count in new.class_counts.items():
        if head in kept:
            weight, bias = before[head]
        else:
            kernel, width = state["embedding.weight"], new.representation_size or new.hidden_size
            weight, bias = kernel.new_zeros(count, width), kernel.new_zeros(count)
            fresh += [f"heads.{head}.weight", f"heads.{head}.bias"]
        state[f"heads.{head}.weight"], state[f"heads.{head}.bias"] = weight, bias
    if fresh:
        counts = {head: count for head, count in new.class_counts.items() if head not in kept}
        others = " others" if new.class_counts == old else ""
        notes.append(
            f"fresh head of {in_words(counts)} classes, untrained: the weights have {in_words(old) or 'none'}{others}"
        )
    if wanted is None and model.classes is not None and kept == new.class_counts.keys():
        wanted = {head: classes[head] for head in new.class_counts}
    return wanted, fresh


def _fit_preprocessing(
    preprocessing: Preprocessing, old: ModelConfig, new: ModelConfig, notes: list[str]
) -> Preprocessing:
    """Scale the shorter side with the crop."""
    resize = max(round(preprocessing.resize * min(new.image_size) / min(old.image_size)), *new.image_size)
    if new.image_size == old.image_size or resize == preprocessing.resize:
        return preprocessing
    notes.append(f"shorter side resized to {resize} pixels, not {preprocessing.resize}")
    try:
        return Preprocessing(**{**preprocessing.model_dump(), "resize": resize})
    except ValidationError as error:
        raise UserError(one_line(error)) from None
