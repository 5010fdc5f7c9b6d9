"""Prototype calibration as readable loops in float64, from the equations; nothing here comes from ``fewshot``."""

import math

import numpy as np


def unit(vector):
    length = math.sqrt(sum(value * value for value in vector))
    return vector / length if length > 0 else vector


def cosine(a, b):
    return float(unit(a) @ unit(b))


def weights(prototype, base, softmax_scale):
    # w_k = exp(τ cos(c, b_k)) / Σ_j exp(τ cos(c, b_j))
    raised = [math.exp(softmax_scale * (cosine(prototype, anchor) - 1)) for anchor in base]
    return [value / sum(raised) for value in raised]


def calibrate(base, new, softmax_scale, shift_weight, renormalize_delta=True):
    rows = []
    for prototype in new:
        # d = Σ_k w_k b_k over unit base prototypes
        delta = np.zeros(len(prototype))
        for weight, anchor in zip(weights(prototype, base, softmax_scale), base, strict=True):
            delta = delta + weight * unit(anchor)
        if renormalize_delta:
            delta = unit(delta)
        rows.append((1 - shift_weight) * unit(prototype) + shift_weight * delta)
    return np.array(rows)


def prior(base, n_items, within_trace, softmax_scale):
    # each base class foretold by the others
    deltas, squared_weights = [], []
    for b, prototype in enumerate(base):
        others = [anchor for j, anchor in enumerate(base) if j != b]
        w = weights(prototype, others, softmax_scale)
        deltas.append(sum(weight * anchor for weight, anchor in zip(w, others, strict=True)))
        squared_weights.append(sum(weight * weight for weight in w))
    n = len(base)
    gain = sum(p @ d for p, d in zip(base, deltas, strict=True)) / sum(d @ d for d in deltas)
    noise = sum(within_trace / count for count in n_items) / n
    residual = sum(np.sum((p - gain * d) ** 2) for p, d in zip(base, deltas, strict=True)) / n
    variance = max(residual - noise * (1 + sum(squared_weights) / n), 1e-6 * within_trace)
    return {
        "prior_shots": within_trace / variance,
        "gain": gain,
        "squared_norm": max(sum(p @ p for p in base) / n - noise, 0),
        "cross": sum(p @ d for p, d in zip(base, deltas, strict=True)) / n,
        "squared_delta": sum(d @ d for d in deltas) / n,
    }


def posterior(base, new, n_shots, n_items, within_trace, softmax_scale, restoration):
    known = prior(base, n_items, within_trace, softmax_scale)
    rows = []
    for prototype, k in zip(new, n_shots, strict=True):
        w = weights(prototype, base, softmax_scale)
        delta = sum(weight * anchor for weight, anchor in zip(w, base, strict=True))
        s = math.sqrt(k / (k + known["prior_shots"]))
        mean = s * prototype + (1 - s) * known["gain"] * delta
        noise = s**2 * within_trace / k
        signal = (
            s**2 * known["squared_norm"]
            + 2 * s * (1 - s) * known["gain"] * known["cross"]
            + (1 - s) ** 2 * known["gain"] ** 2 * known["squared_delta"]
        )
        rows.append(unit(mean) / max(signal / (signal + noise), 0.25) ** (restoration / 2))
    return np.array(rows)
