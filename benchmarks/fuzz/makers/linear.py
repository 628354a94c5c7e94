"""Matrix products and contractions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.fuzz.makers.table import Made, Value, makes

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


@makes("MatMul")
def matmul(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    if r.pick([True, False]):
        shape = r.pick([(v.shape[-1], 2), (v.shape[-1],), (2, v.shape[-1], 3), (1, 1, v.shape[-1], 2)])
        return op, [v.name, r.weight(r.numbers(shape, v.kind))], {}, 1
    inner = v.shape[-2] if len(v.shape) > 1 else v.shape[-1]
    shape = r.pick([(2, inner), (inner,), (2, 3, inner)])
    return op, [r.weight(r.numbers(shape, v.kind)), v.name], {}, 1


@makes("Gemm")
def gemm(r: RandomOperators, v: Value, op: str) -> Made:
    if len(v.shape) != 2:
        return None
    a, b = r.pick([0, 1]), r.pick([0, 1])
    first = r.pick([True, True, False])
    m = 2
    attributes: dict[str, Any] = {k: x for k, x in (("transA", a), ("transB", b)) if x or r.pick([True, False])}
    attributes |= r.pick([{}, {"alpha": 0.5}, {"beta": 2.0}, {"alpha": -2.0, "beta": 0.0}, {"alpha": 0.0}])
    if first:
        rows, inner = v.shape[::-1] if a else v.shape
        other = (m, inner) if b else (inner, m)
        names, out = [v.name, r.weight(r.numbers(other, v.kind))], (rows, m)
    else:
        inner, columns = v.shape[::-1] if b else v.shape
        other = (inner, m) if a else (m, inner)
        names, out = [r.weight(r.numbers(other, v.kind)), v.name], (m, columns)
    if r.opset < 11 or r.pick([True, False]):
        names.append(r.weight(r.numbers(r.broadcastable(out, True), v.kind)))
    return op, names, attributes, 1


@makes("Einsum")
def einsum(r: RandomOperators, v: Value, op: str) -> Made:
    letters = "abcde"[: len(v.shape)]
    if not letters:
        return None
    if r.pick([True, False]):
        kept = "".join(r.rng.permutation(list(letters))[: int(r.rng.integers(0, len(letters) + 1))])
        return op, [v.name], {"equation": f"{letters}->{kept}"}, 1
    shared = r.pick(list(letters))
    other = r.pick([f"{shared}z", f"z{shared}", f"{shared}", letters])
    sizes = dict(zip(letters, v.shape, strict=True)) | {"z": 2}
    weight = r.weight(r.numbers([sizes[one] for one in other], v.kind))
    both = [one for one in dict.fromkeys(letters + other)]
    kept = "".join(r.rng.permutation(both)[: int(r.rng.integers(0, len(both) + 1))])
    first = r.pick([True, False])
    left = f"{letters},{other}" if first else f"{other},{letters}"
    return (
        op,
        [v.name, weight] if first else [weight, v.name],
        {"equation": r.pick([f"{left}->{kept}", f"{left} -> {kept}", left])},
        1,
    )
