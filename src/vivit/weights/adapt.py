"""A model's weights for another clip, another tubelet length or other classes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from vivit.config import ModelConfig, Preprocessing
from vivit.errors import UserError, one_line
from vivit.model.embedding import resize_positions
from vivit.model.vivit import ViViT

KernelInit = Literal["filter_inflation", "central_frame"]
Classes = Sequence[str] | Mapping[str, Sequence[str]]

# The last row is of what is not in the weights.
CHANGEABLE = (
    *("num_frames", "image_size", "tubelet_size", "embedding", "sampled_frames"),
    *("num_classes", "heads", "adapter_size"),
    *("multi_label", "dropout", "attention_dropout", "stochastic_depth", "token_dropping"),
)
ADAPTER = "encoder.adapter."  # how the names of its parameters begin


def adapt(
    model: ViViT, *, tubelet_init: KernelInit = "filter_inflation", classes: Classes | None = None, **changes: Any
) -> ViViT:
    """A copy of a model, fitted to another clip, tubelet length or other classes.

    Position embeddings are resized along time, height and width, each class token's position apart. A fresh head is
    zero, as before any training, and a fresh adapter changes nothing. What was done is in the copy's `report`, a line
    each.

    Args:
        tubelet_init: how the kernel of a tubelet of another length comes from ours. `filter_inflation` spreads its
            frames evenly (equation 8): a video played slower gives the same tokens. `central_frame` keeps them
            together, in the middle (equation 9). Either gives the same tokens for a standing picture.
        classes: the labels in order, or head → labels. The model's own in another order reorder the head; others mean a
            fresh one.
        changes: `num_frames`, `image_size`, `tubelet_size`, `embedding`, `sampled_frames`, `num_classes`, `heads`,
            `adapter_size`, `multi_label`, and the rates of dropout: fields of `ModelConfig`.

    Raises:
        UserError: the change is another one, or gives no consistent model.
    """
    return fit(copy.deepcopy(model), tubelet_init=tubelet_init, classes=classes, **changes)


def fit(
    model: ViViT, *, tubelet_init: KernelInit = "filter_inflation", classes: Classes | None = None, **changes: Any
) -> ViViT:
    """As `adapt`, but parameters that stay are those of `model`, which is not to be used any more."""
    if tubelet_init not in ("filter_inflation", "central_frame"):
        raise UserError(f'tubelet_init: "filter_inflation" or "central_frame", not {tubelet_init!r}')
    old = model.config
    names = named(classes)
    new = _changed(old, names, changes)
    if new == old and names in (None, model.classes):
        return model

    lines: list[str] = []
    state = dict(model.state_dict())
    for name, value in state.items():
        if name.endswith("positions.embedding"):
            state[name] = _resized(name, value, new, lines)
    if (before := old.tubelet_size[0]) != (after := new.tubelet_size[0]):
        inflated = "inflated" if after > before else "summed up"
        how = inflated if tubelet_init == "filter_inflation" else "re-centred"
        lines.append(f"tubelet kernel {how} from {before} to {after} frames")
        state["embedding.weight"] = resize_kernel(state["embedding.weight"], after, tubelet_init)
    if (new.embedding, new.sampled_frames) != (old.embedding, old.sampled_frames):
        sampled = f"{new.sampled_frames} frames of {new.num_frames} sampled uniformly"
        lines.append(sampled if new.embedding == "uniform_frames" else "tubelets in place of single frames")
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    kept_names, fresh = _fit_heads(model, new, names, state, lines)
    for name in fresh:
        trained[name] = True
    preprocessing = _scaled(model.preprocessing, old, new, lines)
    new_adapter = new.adapter_size != old.adapter_size
    if new_adapter:
        lines.append(f"fresh adapter of width {new.adapter_size}, untrained: it changes nothing yet")

    try:
        with torch.device("cpu" if new_adapter else "meta"):
            fitted = ViViT(new, classes=kept_names, preprocessing=preprocessing, origin=(*model.origin, *lines))
    except ValueError as error:
        raise UserError(str(error)) from None
    if new_adapter:
        drawn, dtype = fitted.state_dict(), state["embedding.weight"].dtype
        state = {name: value for name, value in state.items() if not name.startswith(ADAPTER)}
        state |= {name: value.to(dtype) for name, value in drawn.items() if name.startswith(ADAPTER)}
    fitted.load_state_dict(state, assign=True)
    for name, parameter in fitted.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    fitted.report = (*model.report, *lines)
    return fitted.train(model.training)


def resize_kernel(kernel: Tensor, frames: int, how: KernelInit) -> Tensor:
    """A kernel (D, C, t, h, w) for tubelets of another length; the sum over its frames stays.

    From one frame these are equations 8 and 9 of the paper.
    """
    length = kernel.shape[2]
    shares = kernel.new_zeros(frames, length)  # of each old frame, where they go
    if how == "filter_inflation":
        for new in range(frames):
            for old in range(length):
                # Both lengths stretched to one: frames share what overlaps.
                overlap = min((new + 1) * length, (old + 1) * frames) - max(new * length, old * frames)
                shares[new, old] = max(overlap, 0) / frames
    else:
        for old in range(length):
            shares[min(max(old + frames // 2 - length // 2, 0), frames - 1), old] = 1
    return torch.einsum("nt,dcthw->dcnhw", shares, kernel).contiguous()


def _changed(old: ModelConfig, names: Mapping[str, Sequence[str]] | None, changes: dict[str, Any]) -> ModelConfig:
    changes = {field: value for field, value in changes.items() if value is not None}
    for field, value in changes.items():
        if field in ModelConfig.model_fields and field not in CHANGEABLE and value != getattr(old, field):
            raise UserError(
                f"{field}: {value} asked for, but the weights are of {getattr(old, field)}, and that cannot be changed"
            )
    if names is not None:
        counts = {head: len(labels) for head, labels in names.items()}
        of_names: dict[str, Any] = {"heads": counts}
        if set(counts) == {"classes"}:
            of_names = {"num_classes": counts["classes"]}
        for field in ("num_classes", "heads"):
            if changes.get(field) not in (None, of_names.get(field)):
                raise UserError(f"{field}: {changes[field]} asked for, but classes names {counts}")
        changes |= of_names
    fields = old.model_dump()
    if "num_classes" in changes:
        fields["heads"] = None
    if "heads" in changes:
        fields["num_classes"] = None
    if changes.get("embedding") == "tubelet":
        fields["sampled_frames"] = None
    try:
        new = ModelConfig(**{**fields, **changes})
    except ValidationError as error:
        raise UserError(one_line(error)) from None
    if new.tubelet_size[1:] != old.tubelet_size[1:]:
        raise UserError(
            f"tubelet_size: {new.tubelet_size} asked for, but of the weights' {old.tubelet_size} only the first, the "
            "frames, can be changed"
        )
    frames, *_ = changes.get("tubelet_size", (1,))
    if new.embedding == "uniform_frames" and frames != 1:
        raise UserError(
            f"tubelet_size: {changes['tubelet_size']} asked for, but frames are embedded one by one; "
            'with embedding="tubelet" they become tubelets'
        )
    return new


def _resized(name: str, embedding: Tensor, config: ModelConfig, lines: list[str]) -> Tensor:
    times, *places = config.grid
    if ".spatial." in name:
        what, grid = "spatial positions", tuple(places)
    elif ".temporal." in name:
        what, grid = "temporal positions", (times,)
    else:
        what, grid = "positions", config.grid
    if (was := tuple(embedding.shape[:-1])) != grid:
        lines.append(f"{what} resized from {_by(was)} to {_by(grid)}")
    return resize_positions(embedding, grid)


def _fit_heads(
    model: ViViT,
    new: ModelConfig,
    names: Mapping[str, Sequence[str]] | None,
    state: dict[str, Tensor],
    lines: list[str],
) -> tuple[Mapping[str, Sequence[str]] | None, list[str]]:
    """Heads in the state for other classes, reordered or fresh.

    Returns the model's labels and the fresh parameters' names.
    """
    old, labels = model.config.class_counts, dict[str, Sequence[str]](model.classes or {})
    for head, theirs in labels.items():
        wanted = (names or {}).get(head, theirs)
        # A name that two classes share does not tell which row is whose.
        if wanted != theirs and sorted(wanted) == sorted(theirs) and len(set(wanted)) == len(wanted):
            rows = {name: row for row, name in enumerate(theirs)}
            for name in (f"heads.{head}.weight", f"heads.{head}.bias"):
                state[name] = state[name][[rows[label] for label in wanted]]
            labels[head] = wanted
            lines.append(f"the {_counts({head: len(wanted)})} classes of the head put into another order")
    kept = {
        head
        for head, count in new.class_counts.items()
        if old.get(head) == count and (names is None or labels.get(head) in (None, names.get(head)))
    }
    if kept == old.keys() == new.class_counts.keys():
        return names or model.classes, []
    before = {head: (state.pop(f"heads.{head}.weight"), state.pop(f"heads.{head}.bias")) for head in old}
    fresh = []
    for head, count in new.class_counts.items():
        weight, bias = before.get(head) or next(iter(before.values()))
        if head not in kept:
            weight, bias = weight.new_zeros(count, weight.shape[1]), bias.new_zeros(count)
            fresh += [f"heads.{head}.weight", f"heads.{head}.bias"]
        state[f"heads.{head}.weight"], state[f"heads.{head}.bias"] = weight, bias
    if fresh:
        counts = {head: count for head, count in new.class_counts.items() if head not in kept}
        others = " others" if new.class_counts == old else ""
        lines.append(f"fresh head of {_counts(counts)} classes, untrained: the weights have {_counts(old)}{others}")
    if names is None and kept and model.classes is not None and kept == new.class_counts.keys():
        return {head: labels[head] for head in new.class_counts}, fresh
    return names, fresh


def _scaled(preprocessing: Preprocessing, old: ModelConfig, new: ModelConfig, lines: list[str]) -> Preprocessing:
    """The shorter side follows the crop."""
    if new.image_size == old.image_size:
        return preprocessing
    resize = max(round(preprocessing.resize * min(new.image_size) / min(old.image_size)), *new.image_size)
    if resize == preprocessing.resize:
        return preprocessing
    lines.append(f"shorter side resized to {resize} pixels, in place of {preprocessing.resize}")
    return preprocessing.model_copy(update={"resize": resize})


def named(classes: Classes | None) -> dict[str, tuple[str, ...]] | None:
    """Head → its labels; those of a model with one head are of "classes"."""
    if classes is None:
        return None
    heads = classes if isinstance(classes, Mapping) else {"classes": classes}
    for labels in heads.values():
        if isinstance(labels, str) or not isinstance(labels, Sequence) or not all(isinstance(x, str) for x in labels):
            raise UserError(f"classes: a list of names is needed, not {labels!r}")
    return {head: tuple(labels) for head, labels in heads.items()}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(str(n) if head == "classes" else f"{n} {head}" for head, n in counts.items())


def _by(lengths: Sequence[int]) -> str:
    return " × ".join(map(str, lengths))
