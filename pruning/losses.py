"""Losses of the training modes, on torch tensors: task, concentration (Wasserstein), separation, layers, RS and NRS.

The Wasserstein terms are our own reading of a public phrase (the formula was not available); see docs of each function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pruning.measure import is_heatmap


def task_loss(output: Any, labels: Any) -> Any:
    """A scalar: cross entropy for integer labels (n,), mean squared error for targets shaped like the output.

    Heatmaps (n, K, R, C) with positions (n, 2K) in cells: cross entropy against a Gaussian of one cell.
    """
    if not labels.is_floating_point():
        return torch.nn.functional.cross_entropy(output.reshape(len(output), -1), labels.reshape(len(output)).long())
    if is_heatmap(output, labels):
        return -(spots(output, labels) * output.flatten(2).log_softmax(2)).sum(2).mean()
    return torch.nn.functional.mse_loss(output.reshape(len(output), -1), labels.reshape(len(output), -1))


def spots(output: Any, labels: Any) -> Any:
    """Distributions (n, K, R*C) over the cells of each map: a Gaussian of one cell around its position."""
    n, k, rows, columns = output.shape
    points = labels.reshape(n, k, 2, 1)
    x = torch.arange(columns, device=output.device) - points[:, :, 0]
    y = torch.arange(rows, device=output.device) - points[:, :, 1]
    return (-0.5 * (y[..., None] ** 2 + x[:, :, None] ** 2)).flatten(2).softmax(2)


def wasserstein(u: Any, v: Any, p: int = 1) -> Any:
    """W_p^p of two 1-D samples; equal sizes by sorting, else (p = 1 only) the integral of |F_u - F_v|."""
    u, v = u.reshape(-1), v.reshape(-1)
    if len(u) == len(v):
        return (torch.sort(u).values - torch.sort(v).values).abs().pow(p).mean()
    if p != 1:
        grid = (torch.arange(64, device=u.device, dtype=u.dtype) + 0.5) / 64
        return (torch.quantile(u, grid) - torch.quantile(v, grid)).abs().pow(p).mean()
    points = torch.sort(torch.cat([u, v])).values
    left = points[:-1].detach()
    share_u = torch.searchsorted(torch.sort(u).values.detach(), left, right=True).to(u.dtype) / len(u)
    share_v = torch.searchsorted(torch.sort(v).values.detach(), left, right=True).to(u.dtype) / len(v)
    return ((share_u - share_v).abs() * (points[1:] - points[:-1])).sum()


def concentration(activations: Sequence[Any], weights: Sequence[Any], candidates: Sequence[Any]) -> Any:
    """L_conc = sum over candidates of w_c * Var(a_c), over the same sum for all channels.

    For each group: activations (n, C, P), weights (C,) = squared norms of the consumers' slices, candidates (C,) bool.
    Var is W_2^2 to the Dirac at the batch mean, i.e. (with w_c) the one-step damage of folding the channel into its
    mean.
    No gradient through w, the mean or the denominator.
    """
    top, bottom = torch.zeros(()), torch.zeros(())
    for a, w, chosen in zip(activations, weights, candidates, strict=True):
        center = a.mean(dim=(0, 2), keepdim=True).detach()
        damage = w.detach() * (a - center).pow(2).mean(dim=(0, 2))
        top = top.to(a.device) + damage[chosen].sum()
        bottom = bottom.to(a.device) + damage.detach().sum()
    return top / bottom.clamp_min(1e-12)


def ratio_scores(clean: Any, moved: Any) -> Any:
    """Differentiable R_c = Sig / (Sig + MSE) from clean (n, C, P) and moved (K, n, C, P) pre-activations."""
    signal = clean.var(dim=(0, 2), unbiased=False)
    mse = (moved - clean).pow(2).mean(dim=(0, 1, 3))
    return signal / (signal + mse).clamp_min(1e-12)


def separation(scores: Any, share: float, low: float = 0.0, high: float = 0.9, two_sided: bool = False) -> Any:
    """L_sep: pull the lowest `share` of the scores to `low` and the rest to `high`; one-sided pushes up the kept
    only.
    """
    ordered = torch.sort(scores).values
    count = int(np.ceil(share * len(ordered)))
    kept = (high - ordered[count:]).clamp_min(0) if not two_sided else (ordered[count:] - high).abs()
    total = kept.sum()
    if two_sided:
        total = total + (ordered[:count] - low).abs().sum()
    return total / len(ordered)


def across_layers(scores: Sequence[Any], p: int = 1, grid: int = 64) -> Any:
    """L_layer: distance of each layer's score distribution from their 1-D Wasserstein barycentre (no gradient through
    it).
    """
    levels = (torch.arange(grid, device=scores[0].device, dtype=scores[0].dtype) + 0.5) / grid
    quantiles = torch.stack([torch.quantile(layer, levels) for layer in scores])
    center = quantiles.mean(0, keepdim=True).detach()
    return (quantiles - center).abs().pow(p).mean()


def stability(lower: Any, upper: Any, scale: Any | None = None) -> Any:
    """RS: mean of -tanh(1 + l*u) (Xiao et al. 2019); with `scale` (BatchNormalization gamma) NRS: l*u / gamma^2."""
    product = lower * upper
    if scale is not None:
        product = product / scale.detach().pow(2).clamp_min(1e-12)
    return -torch.tanh(1 + product).mean()
