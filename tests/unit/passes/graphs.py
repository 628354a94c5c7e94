"""Random graphs of the intermediate representation, covering every operator that can be evaluated."""

from __future__ import annotations

import math

import numpy as np

from verifier.graph.ir import Graph
from verifier.graph.onnx_import.context import GraphBuilder, Var
from verifier.graph.onnx_import.model import ModelLimits

_UNARY = ("Relu", "Abs", "Sign", "Floor", "Round", "Sigmoid", "Tanh", "Erf", "Atan", "Softplus", "Sin", "Cos")
_KINDS = (
    "unary", "relu", "relu", "leaky", "prelu", "clip", "pow", "positive", "scale", "scale", "shift", "shift", "dense",
    "dense", "conv", "transposed", "reshape", "transpose", "slice", "take", "expand", "pad", "sum", "max", "add", "sub",
    "mul", "concat", "constant", "saturate", "difference", "difference", "noop", "onesided", "onesided", "sandwich",
    "sandwich", "mirrored", "within", "place", "spline", "ramps",
)  # fmt: skip


class RandomGraph:
    """Grows a graph node by node; every value stays below 400 elements and moderate in size."""

    def __init__(self, seed: int, nodes: int, inputs: int = 1, outputs: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.b = GraphBuilder(ModelLimits())
        self.b.begin("random", "v")
        names = [f"in{k}" for k in range(inputs)]
        shapes = [self._shape() for _ in names]
        self.pool = [self.b.add_input(n, s, np.dtype(np.float64)) for n, s in zip(names, shapes, strict=True)]
        for _ in range(nodes):
            self._grow(_KINDS[self.rng.integers(len(_KINDS))])
        chosen = [self.pool[-1 - k % len(self.pool)].name for k in range(outputs)]
        self.graph = Graph(tuple(names), tuple(chosen), tuple(self.b.nodes), dict(self.b.shapes))

    def _shape(self) -> tuple[int, ...]:
        options = [(6,), (1, 5), (2, 3), (1, 2, 4, 4), (1, 3, 6), (2, 2, 3), (1, 1, 5)]
        return options[self.rng.integers(len(options))]

    def _n(self, *shape: int) -> np.ndarray:
        values = self.rng.normal(size=shape)
        return np.where(self.rng.random(shape) < 0.15, 0.0, values)

    def _partial(self, x: Var) -> np.ndarray:
        """A random parameter that broadcasts to x."""
        shape = [size if self.rng.random() < 0.5 else 1 for size in x.shape]
        drop = int(self.rng.integers(len(shape) + 1)) if all(size == 1 for size in shape) else 0
        return self._n(*shape[drop:])

    def _pick(self) -> Var:
        recent = self.pool[-3:] if self.rng.random() < 0.7 else self.pool
        return recent[self.rng.integers(len(recent))]

    def _grow(self, kind: str) -> None:
        x = self._pick()
        if math.prod(x.shape) > 400:
            x = self.pool[0]
        made = getattr(self, f"_{kind}")(x)
        if made is not None and made.name not in {one.name for one in self.pool}:
            self.pool.append(made)

    def _unary(self, x: Var) -> Var:
        return self.b.unary(_UNARY[self.rng.integers(len(_UNARY))], x)

    def _relu(self, x: Var) -> Var:
        return self.b.unary("Relu", x)

    def _leaky(self, x: Var) -> Var:
        return self.b.unary("LeakyRelu", x, alpha=float(self.rng.choice([0.0, 0.1, 1.0, 1.5])))

    def _prelu(self, x: Var) -> Var:
        return self.b.emit("PRelu", [x], x.shape, {"slope": np.abs(self._partial(x))})

    def _clip(self, x: Var) -> Var:
        low, high = np.sort(self.rng.normal(size=2))
        low, high = (-np.inf if self.rng.random() < 0.2 else low), (np.inf if self.rng.random() < 0.2 else high)
        return self.b.unary("Clip", x, min=float(low), max=float(high))

    def _within(self, x: Var) -> Var:
        return self.b.unary("Within", self.b.unary("Sin", x), min=-1.0, max=1.0)

    def _spline(self, x: Var) -> Var:
        return self.b.emit("Spline", [x], x.shape, {"knots": self._n(3), "rise": self._n(3)})

    def _ramps(self, x: Var) -> Var:
        """A function of one variable, written with ReLUs."""
        each = self.b.reshape(x, (*x.shape, 1))
        ramps = self.b.unary("Relu", self.b.shift(each, self._n(3)))
        return self.b.reshape(self.b.emit("Dense", [ramps], each.shape, {"weight": self._n(1, 3)}), x.shape)

    def _place(self, x: Var) -> Var | None:
        if not x.shape:
            return None
        axis = int(self.rng.integers(x.rank))
        shape = [size for a, size in enumerate(x.shape) if a != axis]
        return self.b.emit("ArgMax", [x], shape, attrs={"axis": axis, "last": int(self.rng.integers(2))})

    def _pow(self, x: Var) -> Var:
        bounded = self.b.unary("Tanh", x)
        return self.b.unary("Pow", bounded, exponent=int(self.rng.integers(2, 4)))

    def _positive(self, x: Var) -> Var:
        """Exp, Log, Sqrt and Reciprocal where they are harmless."""
        bounded = self.b.shift(self.b.unary("Sigmoid", x), 0.5)
        return self.b.unary(str(self.rng.choice(["Exp", "Log", "Sqrt", "Reciprocal"])), bounded)

    def _scale(self, x: Var) -> Var:
        factor = (
            np.array(float(self.rng.choice([-1.0, 1.0, 0.5, 0.0]))) if self.rng.random() < 0.4 else self._partial(x)
        )
        return self.b.emit("Scale", [x], x.shape, {"factor": factor})

    def _shift(self, x: Var) -> Var:
        return self.b.emit("Shift", [x], x.shape, {"offset": self._partial(x)})

    def _dense(self, x: Var) -> Var | None:
        if not x.shape:
            return None
        k = int(self.rng.integers(1, 6))
        return self.b.dense(x, self._n(k, x.shape[-1]) * 0.5, self._n(k) if self.rng.random() < 0.5 else None)

    def _image(self, x: Var) -> Var:
        size = math.prod(x.shape)
        if x.rank in (3, 4) and x.shape[-1] > 1:
            return x
        return self.b.reshape(x, (1, 2, size // 2) if size % 2 == 0 else (1, 1, size))

    def _conv(self, x: Var) -> Var | None:
        x = self._image(x)
        spatial = x.rank - 2
        groups = 2 if x.shape[1] == 2 and self.rng.random() < 0.3 else 1
        kernel = [int(min(size, self.rng.integers(1, 4))) for size in x.shape[2:]]
        padding = tuple(int(self.rng.integers(0, 2)) for _ in range(spatial))
        stride = tuple(int(self.rng.integers(1, 3)) for _ in range(spatial))
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[2:], padding, kernel, stride, strict=True)]
        params = {"weight": self._n(2 * groups, x.shape[1] // groups, *kernel) * 0.5}
        if self.rng.random() < 0.5:
            params["bias"] = self._n(2 * groups)
        attrs = {"stride": stride, "padding": padding, "dilation": (1,) * spatial, "groups": groups}
        return self.b.emit("Conv", [x], (x.shape[0], 2 * groups, *out), params, attrs)

    def _transposed(self, x: Var) -> Var | None:
        x = self._image(x)
        if math.prod(x.shape) > 40:
            return None
        spatial = x.rank - 2
        groups = 2 if x.shape[1] == 2 and self.rng.random() < 0.3 else 1
        padding = tuple(int(self.rng.integers(0, 2)) for _ in range(spatial))
        out = [(n - 1) * 2 - 2 * p + 3 + 1 for n, p in zip(x.shape[2:], padding, strict=True)]
        params = {"weight": self._n(x.shape[1], 2, *[3] * spatial) * 0.5}
        if self.rng.random() < 0.5:
            params["bias"] = self._n(2 * groups)
        attrs = {"stride": (2,) * spatial, "padding": padding, "dilation": (1,) * spatial, "groups": groups,
                 "output_padding": (1,) * spatial}  # fmt: skip
        return self.b.emit("ConvTranspose", [x], (x.shape[0], 2 * groups, *out), params, attrs)

    def _reshape(self, x: Var) -> Var:
        size = math.prod(x.shape)
        options = [(size,), (1, size), (size, 1), *([(2, size // 2)] if size % 2 == 0 else [])]
        return self.b.emit("Reshape", [x], options[self.rng.integers(len(options))])

    def _transpose(self, x: Var) -> Var:
        perm = tuple(int(axis) for axis in self.rng.permutation(x.rank))
        return self.b.emit("Transpose", [x], [x.shape[axis] for axis in perm], attrs={"perm": perm})

    def _slice(self, x: Var) -> Var | None:
        if not x.shape:
            return None
        axis = int(self.rng.integers(x.rank))
        start = int(self.rng.integers(x.shape[axis]))
        stop = int(self.rng.integers(start + 1, x.shape[axis] + 1))
        return self.b.slice(x, axis, start, stop, int(self.rng.integers(1, 3)))

    def _take(self, x: Var) -> Var | None:
        if not x.shape:
            return None
        axis = int(self.rng.integers(x.rank))
        indices = self.rng.integers(x.shape[axis], size=int(self.rng.integers(1, 5)))
        shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
        return self.b.emit("Take", [x], shape, {"indices": indices}, {"axis": axis})

    def _expand(self, x: Var) -> Var:
        return self.b.emit("Expand", [x], [3 if size == 1 else size for size in x.shape])

    def _pad(self, x: Var) -> Var:
        before, after = (tuple(int(one) for one in self.rng.integers(0, 2, x.rank)) for _ in range(2))
        shape = [b + n + a for b, n, a in zip(before, x.shape, after, strict=True)]
        return self.b.emit("Pad", [x], shape, attrs={"before": before, "after": after})

    def _sum(self, x: Var) -> Var | None:
        axes = [axis for axis in range(x.rank) if self.rng.random() < 0.5]
        return self.b.scale(self.b.reduce_sum(x, axes), 0.3) if axes else None

    def _max(self, x: Var) -> Var | None:
        if not x.shape:
            return None
        axis = int(self.rng.integers(x.rank))
        op = str(self.rng.choice(["ReduceMax", "LogSumExp"]))
        return self.b.emit(op, [x], (*x.shape[:axis], *x.shape[axis + 1 :]), attrs={"axis": axis})

    def _partner(self, x: Var) -> Var:
        same = [one for one in self.pool if one.shape == x.shape]
        return same[self.rng.integers(len(same))]

    def _add(self, x: Var) -> Var:
        return self.b.binary("Add", x, self._partner(x))

    def _sub(self, x: Var) -> Var:
        return self.b.binary("Sub", x, self._partner(x))

    def _mul(self, x: Var) -> Var:
        return self.b.binary("Mul", self.b.unary("Tanh", x), self._partner(x))

    def _concat(self, x: Var) -> Var | None:
        return self.b.concat([x, self._partner(x)], int(self.rng.integers(x.rank))) if x.shape else None

    def _constant(self, x: Var) -> Var:
        return self.b.constant(self._n(*x.shape))

    def _onesided(self, x: Var) -> Var:
        """Add, Sub or Mul with a Constant on either side."""
        pair = [x, self.b.constant(self._n(*x.shape))]
        op = str(self.rng.choice(["Add", "Sub", "Sub", "Mul"]))
        return self.b.binary(op, *(pair if self.rng.random() < 0.5 else pair[::-1]))

    def _sandwich(self, x: Var) -> Var | None:
        """Factors and offsets per channel, and others, around a convolution or a Dense."""
        middle = (self._conv, self._transposed, self._dense)[self.rng.integers(3)]
        x = self._image(x)
        for _ in range(int(self.rng.integers(1, 3))):
            x = self._channelwise(x)
        y = middle(x)
        return self._channelwise(self._channelwise(y)) if y is not None else None

    def _channelwise(self, x: Var) -> Var:
        shape = (x.shape[1], *[1] * (x.rank - 2)) if self.rng.random() < 0.7 else (x.shape[-1],)
        if self.rng.random() < 0.5:
            return self.b.emit("Scale", [x], x.shape, {"factor": self._n(*shape)})
        return self.b.emit("Shift", [x], x.shape, {"offset": self._n(*shape)})

    def _mirrored(self, x: Var) -> Var | None:
        """Dense - Relu - Dense whose hidden rows repeat each other up to sign, with some rows of zeros."""
        if not x.shape:
            return None
        rows = self._n(3, x.shape[-1] + 1) * 0.5
        pattern = self.rng.integers(0, 3, size=7)
        hidden = rows[pattern] * self.rng.choice([-1.0, 1.0, 1.0, 0.0], size=7)[:, None]
        hidden[:, -1] += np.where(hidden.any(axis=1), 0.0, self.rng.normal(size=7))
        z = self.b.unary("Relu", self.b.dense(x, hidden[:, :-1], hidden[:, -1] if self.rng.random() < 0.7 else None))
        outer = self.rng.choice([-1.0, 0.5, 1.0], size=(3, 7))
        return self.b.dense(z, outer, self._n(3) if self.rng.random() < 0.5 else None)

    def _saturate(self, x: Var) -> Var:
        """relu(b - s relu(x)), the way exporters write a minimum."""
        s, limit = float(self.rng.choice([1.0, 0.5])), float(self.rng.normal())
        return self.b.unary("Relu", self.b.shift(self.b.scale(self.b.unary("Relu", x), -s), limit))

    def _difference(self, x: Var) -> Var:
        """+-relu(s x) -+ relu(s x - c), also with unequal signs."""
        y = self.b.shift(self.b.scale(x, float(self.rng.choice([1.0, -2.0]))), float(self.rng.normal()))
        again = self.b.scale(x, 0.5) if self.rng.random() < 0.3 else y
        other = self.b.unary("Relu", self.b.shift(again, float(self.rng.normal())))
        first = self.b.unary("Relu", y)
        if self.rng.random() < 0.3:
            return self.b.binary("Add", self.b.scale(first, -1.0), other)
        return self.b.binary(str(self.rng.choice(["Sub", "Sub", "Add"])), first, other)

    def _noop(self, x: Var) -> Var:
        kind = self.rng.integers(4)
        if kind == 0:
            return self.b.emit("Reshape", [x], x.shape)
        if kind == 1:
            return self.b.emit("Scale", [x], x.shape, {"factor": np.ones(())})
        if kind == 2:
            return self.b.emit("Shift", [x], x.shape, {"offset": np.zeros((1,) * x.rank)})
        return self.b.emit("Pad", [x], x.shape, attrs={"before": (0,) * x.rank, "after": (0,) * x.rank})
