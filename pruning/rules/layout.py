"""Rules of operators that move entries: Concat, Split, Slice, Gather, Flatten, Reshape, Transpose, reductions,
Softmax.
"""

from __future__ import annotations

import numpy as np

from pruning.labels import Keep, Labels, LabelWalk, with_attrs, with_constant
from pruning.net import Net, OnnxNode, Shape
from pruning.rules.table import rule

Update = tuple[OnnxNode, dict[str, np.ndarray]]


@rule("Concat")
def concat(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Along the joined axis the label arrays are joined, along the others they are united."""
    shapes = [walk.shape(name) for name in node.inputs]
    if any(shape is None for shape in shapes):
        walk.freeze_inputs(node, f"the shapes of Concat '{node.label}' could not be determined")
        return
    known: list[Shape] = [shape for shape in shapes if shape is not None]
    joined = int(node.attrs["axis"]) % len(known[0])
    for axis in range(len(known[0])):
        parts = [walk.axes(name).get(axis) for name in node.inputs]
        labelled = [part for part in parts if part is not None]
        if not labelled:
            continue
        reason = f"Concat '{node.label}' joins it with values that cannot be pruned"
        if axis == joined:
            whole = [
                walk.solid(shape[axis], reason) if part is None else part
                for part, shape in zip(parts, known, strict=True)
            ]
            walk.put(node.outputs[0], axis, np.concatenate(whole))
            continue
        for other in labelled[1:]:
            walk.unite(labelled[0], other)
        if len(labelled) < len(parts):
            walk.freeze(labelled[0], reason)
        walk.put(node.outputs[0], axis, labelled[0])


@rule("Split")
def split(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Each output takes its part of the label array; the sizes become explicit."""
    name, shape = node.input(0), walk.shape(node.input(0))
    if shape is None:
        return
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    for other, labels in walk.axes(name).items():
        if other != axis:
            for output in node.outputs:
                walk.put(output, other, labels)
    whole = walk.axes(name).get(axis)
    if whole is None:
        return
    lengths = [(walk.shape(output) or (0,) * len(shape))[axis] for output in node.outputs]
    if sum(lengths) != len(whole) or (node.input(1) and walk.net.constant(node.input(1)) is None):
        walk.freeze(whole, f"Split '{node.label}' has computed sizes")
        return
    parts = np.split(whole, np.cumsum(lengths)[:-1])
    for output, part in zip(node.outputs, parts, strict=True):
        walk.put(output, axis, part)
        walk.segments.append(part)

    def explicit_sizes(net: Net, old: OnnxNode, keep: Keep) -> Update:
        sizes = [int(keep(part).sum()) for part in parts]
        if net.opset < 13:
            return with_attrs(old, split=sizes), {}
        return with_constant(net, with_attrs(old, num_outputs=None), 1, np.asarray(sizes, np.int64))

    walk.patch(index, explicit_sizes)


@rule("Slice")
def slice_(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Constant unit-step slices of a labelled axis become slices of what is left; other axes pass."""
    name, shape = node.input(0), walk.shape(node.input(0))
    spec = _slice_spec(walk, node, len(shape)) if shape is not None else None
    if shape is None or spec is None:
        walk.freeze_inputs(node, f"Slice '{node.label}' has computed limits")
        return
    axes, starts, ends, steps = spec
    limits = {}
    for axis, labels in walk.axes(name).items():
        if axis not in axes:
            walk.put(node.outputs[0], axis, labels)
            continue
        place = axes.index(axis)
        if steps[place] != 1:
            walk.freeze(labels, f"Slice '{node.label}' takes every {steps[place]}-th channel")
            continue
        start, stop, _ = slice(starts[place], ends[place]).indices(shape[axis])
        walk.put(node.outputs[0], axis, labels[start:stop])
        walk.segments.append(labels[start:stop])
        limits[place] = (labels, start, stop)
    if limits:

        def shift_limits(net: Net, old: OnnxNode, keep: Keep) -> Update:
            first, last = list(starts), list(ends)
            for place, (labels, start, stop) in limits.items():
                kept = np.concatenate([[0], np.cumsum(keep(labels))])
                first[place], last[place] = int(kept[start]), int(kept[max(start, stop)])
            if "starts" in old.attrs:
                return with_attrs(old, starts=first, ends=last), {}
            kind = net.weights[old.input(1)].dtype  # the axes input must keep the same type
            changed, more = with_constant(net, old, 1, np.clip(first, None, np.iinfo(kind).max).astype(kind))
            changed, extra = with_constant(net.changed(weights=more), changed, 2, np.asarray(last).astype(kind))
            return changed, {**more, **extra}

        walk.patch(index, shift_limits)


def _slice_spec(walk: LabelWalk, node: OnnxNode, rank: int) -> tuple[list[int], list[int], list[int], list[int]] | None:
    if "starts" in node.attrs:
        starts, ends = list(node.attrs["starts"]), list(node.attrs["ends"])
        return [a % rank for a in node.attrs.get("axes", range(len(starts)))], starts, ends, [1] * len(starts)
    values = [walk.net.constant(node.input(slot)) for slot in range(1, 5)]
    if (
        any(node.input(slot) and values[slot - 1] is None for slot in range(1, 5))
        or values[0] is None
        or values[1] is None
    ):
        return None
    starts, ends = values[0].tolist(), values[1].tolist()
    axes = list(range(len(starts))) if values[2] is None else [int(a) % rank for a in values[2].tolist()]
    return axes, starts, ends, [1] * len(starts) if values[3] is None else values[3].tolist()


@rule("Gather")
def gather(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Constant indices (a list or one number) into a labelled axis are renumbered; other axes pass."""
    name, shape = node.input(0), walk.shape(node.input(0))
    indices = walk.net.constant(node.input(1))
    if shape is None or indices is None or indices.ndim > 1:
        walk.freeze_inputs(node, f"Gather '{node.label}' has computed indices")
        return
    axis = int(node.attrs.get("axis", 0)) % len(shape)
    for other, labels in walk.axes(name).items():
        if other != axis:
            walk.put(node.outputs[0], other - (indices.ndim == 0 and other > axis), labels)
    whole = walk.axes(name).get(axis)
    if whole is None:
        return
    taken = np.where(indices < 0, indices + shape[axis], indices)
    if indices.ndim == 0:
        walk.freeze(whole[taken].reshape(1), f"Gather '{node.label}' picks that channel")
    else:
        walk.put(node.outputs[0], axis, whole[taken])
        walk.segments.append(whole[taken])

    def renumber(net: Net, old: OnnxNode, keep: Keep) -> Update:
        kept = keep(whole)
        places = (np.cumsum(kept) - 1)[taken]
        left = places if indices.ndim == 0 else places[kept[taken]]
        return with_constant(net, old, 1, np.asarray(left, indices.dtype))

    walk.patch(index, renumber)


@rule("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def reshape(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Merged axes repeat labels (channel c becomes H*W features); a split axis ties what lands in one new channel."""
    name = node.input(0)
    before, after = walk.shape(name), walk.shape(node.outputs[0])
    labelled = walk.axes(name)
    if not labelled:
        return
    if before is None or after is None:
        walk.freeze_inputs(node, f"the shapes of {node.type} '{node.label}' could not be determined")
        return
    if node.type == "Squeeze" and "axes" not in node.attrs and not node.input(1):
        walk.freeze_inputs(node, f"Squeeze '{node.label}' would drop the axis of a single channel that is left")
        return
    for axis, labels in labelled.items():
        place = carry_labels(walk, before, after, axis, labels)
        if place is None:
            walk.freeze(labels, f"{node.type} '{node.label}' mixes channels with other axes")
        else:
            walk.put(node.outputs[0], *place)
    moved = dict(walk.axes(node.outputs[0]))
    if node.type == "Reshape" and moved:
        _patch_target(walk, index, node, after, moved)


def carry_labels(walk: LabelWalk, before: Shape, after: Shape, axis: int, labels: Labels) -> tuple[int, Labels] | None:
    """Axis and labels after a reshape, or None if the channels cannot be followed."""
    if before[axis] == 1:
        return None
    for old, new in _blocks(before, after):
        if axis not in old:
            continue
        wide_old = [a for a in old if before[a] != 1]
        wide_new = [a for a in new if after[a] != 1]
        if len(wide_new) == 1:
            inner = int(np.prod([before[a] for a in wide_old if a > axis], dtype=int))
            outer = int(np.prod([before[a] for a in wide_old if a < axis], dtype=int))
            return wide_new[0], np.tile(np.repeat(labels, inner), outer)
        if len(wide_old) == 1:  # a dense layer reshaped into (channels, height, width)
            columns = labels.reshape(after[wide_new[0]], -1)
            for column in columns.T[1:]:
                walk.unite(columns[:, 0], column)
            return wide_new[0], columns[:, 0]
    return None


def _blocks(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes with equal products on both sides."""
    blocks, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        old, new = [], []
        left = right = 1
        while True:
            if (left <= right or j >= len(after)) and i < len(before):
                left *= before[i]
                old.append(i)
                i += 1
            elif j < len(after):
                right *= after[j]
                new.append(j)
                j += 1
            if left == right and ((old and new) or i >= len(before) or j >= len(after)):
                break
            if i >= len(before) and j >= len(after):
                break
        blocks.append((old, new))
    return blocks


def _patch_target(walk: LabelWalk, index: int, node: OnnxNode, after: Shape, moved: dict[int, Labels]) -> None:
    stored = node.attrs.get("shape", walk.net.constant(node.input(1)))
    cut = set(walk.axes(node.input(0)))

    def rewrite(net: Net, old: OnnxNode, keep: Keep) -> Update:
        # A 0 copies an axis of the input, which may be another one and cut: it stays only where neither side is
        # labelled (it may be the batch). So does the size that the reshape infers; all others are written out.
        target = np.array(after, np.int64)
        for axis, labels in moved.items():
            target[axis] = keep(labels).sum()
        if stored is not None:
            for axis, size in enumerate(np.asarray(stored).tolist()):
                if size == -1 or (size == 0 and axis not in moved and axis not in cut):
                    target[axis] = size
        elif net.batched:
            target[0] = -1  # computed at run time, perhaps from numbers that no longer hold
        if "shape" in old.attrs:
            return with_attrs(old, shape=target.tolist()), {}
        return with_constant(net, old, 1, target)

    if stored is None and walk.net.batched and (0 in moved or after[0] != 1):
        for labels in moved.values():
            walk.freeze(labels, f"Reshape '{node.label}' has a computed target that moves the batch axis")
        return
    walk.patch(index, rewrite)


@rule("Transpose")
def transpose(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Labels follow the permutation."""
    shape = walk.shape(node.input(0))
    if shape is None:
        return
    perm = list(node.attrs.get("perm", range(len(shape))[::-1]))
    for axis, labels in walk.axes(node.input(0)).items():
        walk.put(node.outputs[0], perm.index(axis), labels)


@rule("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd")
def reduce(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Axes that are not reduced pass."""
    shape = walk.shape(node.input(0))
    stored = walk.net.constant(node.input(1))
    axes = node.attrs.get("axes", None if stored is None else stored.tolist())
    if shape is None or (node.input(1) and stored is None):
        walk.freeze_inputs(node, f"{node.type} '{node.label}' has computed axes")
        return
    if not axes and node.attrs.get("noop_with_empty_axes", 0):
        gone: set[int] = set()
    else:
        gone = {int(a) % len(shape) for a in axes} if axes else set(range(len(shape)))
    for axis, labels in walk.axes(node.input(0)).items():
        if axis in gone:
            walk.freeze(labels, f"{node.type} '{node.label}' reduces over channels")
        else:
            shift = 0 if node.attrs.get("keepdims", 1) else sum(a < axis for a in gone)
            walk.put(node.outputs[0], axis - shift, labels)


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Couples the entries of its axis (before opset 13: of all axes from there on)."""
    shape = walk.shape(node.input(0))
    if shape is None:
        walk.freeze_inputs(node, f"the shape of '{node.input(0)}' could not be determined")
        return
    old = walk.net.opset < 13
    axis = int(node.attrs.get("axis", 1 if old else -1)) % len(shape)
    for place, labels in walk.axes(node.input(0)).items():
        if place == axis or (old and place > axis):
            walk.freeze(labels, f"{node.type} '{node.label}' couples all channels")
        else:
            walk.put(node.outputs[0], place, labels)


@rule("Shape")
def shape_of(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Reading the length of a labelled axis freezes it, unless every reader only picks other axes."""
    for axis, labels in walk.axes(node.input(0)).items():
        if "start" in node.attrs or "end" in node.attrs or not _only_other_axes(walk, node.outputs[0], axis):
            walk.freeze(labels, f"Shape '{node.label}' reads the number of channels")


def _only_other_axes(walk: LabelWalk, value: str, axis: int) -> bool:
    if value in walk.net.outputs:
        return False
    for reader in walk.net.consumers.get(value, ()):
        node = walk.net.nodes[reader]
        picked: set[int] | None = None
        if node.type == "Gather" and (indices := walk.net.constant(node.input(1))) is not None:
            picked = set(np.asarray(indices).reshape(-1).tolist())
        elif node.type == "Slice" and (spec := _slice_spec(walk, node, 1)) is not None:
            rank = (walk.shape(value) or (0,))[0]
            picked = set(range(rank)[slice(spec[1][0], spec[2][0], spec[3][0])])
        if picked is None or axis in picked or any(p < 0 for p in picked):
            return False
    return True
