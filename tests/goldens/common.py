"""Code of all golden suites: procedural images, files, hashes."""

import hashlib
import json
import pathlib

import numpy as np
from PIL import Image

FILL = (124, 116, 104)  # timm: round(255 * ImageNet's mean)


def picture(height, width, seed):
    """A procedural RGB image of waves, a disc, a bar and noise. Equal seeds give equal pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.empty((height, width, 3))
    for channel in range(3):
        fy, fx, phase = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.uniform(0, 6.28)
        out[..., channel] = 128 + 70 * np.sin(fy * y + fx * x + phase)
    cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), 0.3 * min(height, width)
    out[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = rng.uniform(0, 255, 3)
    out[np.abs(y + x * rng.uniform(-1, 1) - height / 2) < 1.5] = rng.uniform(0, 255, 3)
    out += rng.normal(0, 6, out.shape)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def smooth(height, width, seed):
    """An image without edges or noise, which compresses well."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [128 + 90 * np.sin((y * a + x * b) * 3 / max(height, width) + c)
             for a, b, c in rng.uniform(-1, 3, (3, 3))]
    return np.clip(np.rint(np.stack(waves, -1)), 0, 255).astype(np.uint8)


def sha256(pixels):
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def write_png(path, image):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(path, optimize=True)


def write_json(path, value):
    """JSON with one line per innermost object or list; floats round-trip exactly."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)

    def flat(value):
        inner = value.values() if isinstance(value, dict) else value
        return not any(isinstance(v, dict) or (isinstance(v, list) and not flat(v)) for v in inner)

    def lines(value, depth):
        pad = " " * (depth + 1)
        if isinstance(value, dict) and not flat(value):
            body = [f"{pad}{json.dumps(str(k))}: {lines(v, depth + 1)}" for k, v in value.items()]
            return "{\n" + ",\n".join(body) + "\n" + " " * depth + "}"
        if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
            return "[\n" + ",\n".join(pad + lines(v, depth + 1) for v in value) + "\n" + " " * depth + "]"
        return json.dumps(value)

    path.write_text(lines(value, 0) + "\n")


def summary(values):
    """Moments, quantiles and the standard error of the mean."""
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return {"n": 0}
    mean, std = float(values.mean()), float(values.std())
    points = (0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)
    skew = float(((values - mean) ** 3).mean() / std**3) if std > 0 else 0.0
    return {
        "n": int(values.size),
        "mean": mean,
        "std": std,
        "stderr_mean": std / float(np.sqrt(values.size)),
        "skew": skew,
        "quantiles": {str(p): float(np.quantile(values, p)) for p in points},
    }
