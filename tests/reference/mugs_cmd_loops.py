"""The losses of Mugs and CMD from the networks' outputs, item by item in float64."""

import math

import numpy as np


def log_softmax(logits):
    largest = max(logits)
    total = math.log(sum(math.exp(value - largest) for value in logits)) + largest
    return [value - total for value in logits]


def cross_entropy(log_p, log_q):
    """H(p, q) = -Σ p log q."""
    return -sum(math.exp(p) * q for p, q in zip(log_p, log_q, strict=True))


def divergence(log_p, log_q):
    """KL(p || q) = Σ p (log p - log q)."""
    return sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))


def info_nce(prediction, target, queue, temperature):
    """-log of the target's share among the target and the queue."""
    logits = [prediction @ target / temperature, *(prediction @ row / temperature for row in queue)]
    return -log_softmax(logits)[0]


def halves(losses, n_global):
    """Half the mean over pairs of global views, half that over pairs with a local one; u = v is skipped."""
    large = [loss for (u, v), loss in losses.items() if v < n_global and u != v]
    small = [loss for (u, v), loss in losses.items() if v >= n_global]
    if not small:
        return np.mean(large)
    return (np.mean(large) + np.mean(small)) / 2


def all_pairs(losses):
    return np.mean([loss for (u, v), loss in losses.items() if u != v])


def mugs_losses(teacher, student, queues, center, n_global, *, temperature, student_temperature, teacher_temperature):
    """Instance, local-group and group losses of outputs by name (views, images, d)."""
    parts = {}
    n_images = teacher["group"].shape[1]
    for part in ("instance", "local_group"):
        losses = {}
        for u, targets in enumerate(teacher[part]):
            for v, predictions in enumerate(student[part]):
                of_images = [info_nce(predictions[b], targets[b], queues[part], temperature) for b in range(n_images)]
                losses[u, v] = np.mean(of_images)
        parts[part] = halves(losses, n_global)
    losses = {}
    for u, targets in enumerate(teacher["group"]):
        for v, logits in enumerate(student["group"]):
            of_images = [
                cross_entropy(
                    log_softmax((targets[b] - center) / teacher_temperature),
                    log_softmax(logits[b] / student_temperature),
                )
                for b in range(n_images)
            ]
            losses[u, v] = np.mean(of_images)
    parts["group"] = halves(losses, n_global)
    return parts


def log_bag(log_rows, weights):
    """Log of the weighted mean of distributions."""
    total = sum(weight * np.exp(row) for weight, row in zip(weights, log_rows, strict=True))
    return np.log(total)


def cmd_losses(teacher, student, centers, *, student_temperature, teacher_temperature):
    """The four losses.

    A network's views: each a dict with ``logits`` (images, k), ``regions`` (images, n, k), ``tokens`` (images, n, d)
    and ``weights`` (images, n).
    """
    image_center, region_center = centers
    image, region, across = {}, {}, {}
    within = []
    n_images = teacher[0]["logits"].shape[0]
    for v, seen in enumerate(student):
        of_images = []
        for b in range(n_images):
            log_p = log_softmax(seen["logits"][b] / student_temperature)
            rows = [log_softmax(row / student_temperature) for row in seen["regions"][b]]
            of_images.append(divergence(log_p, log_bag(rows, seen["weights"][b])))
        within.append(np.mean(of_images))
        for u, taught in enumerate(teacher):
            images, regions, bags = [], [], []
            for b in range(n_images):
                log_student = log_softmax(seen["logits"][b] / student_temperature)
                log_teacher = log_softmax((taught["logits"][b] - image_center) / teacher_temperature)
                images.append(cross_entropy(log_teacher, log_student))
                rows = [log_softmax((row - region_center) / teacher_temperature) for row in taught["regions"][b]]
                bags.append(cross_entropy(log_bag(rows, taught["weights"][b]), log_student))
                for token, logits in zip(seen["tokens"][b], seen["regions"][b], strict=True):
                    cosines = [
                        token @ other / (np.linalg.norm(token) * np.linalg.norm(other)) for other in taught["tokens"][b]
                    ]
                    log_q = log_softmax(logits / student_temperature)
                    regions.append(cross_entropy(rows[int(np.argmax(cosines))], log_q))
            image[u, v], region[u, v], across[u, v] = np.mean(images), np.mean(regions), np.mean(bags)
    return {
        "image": all_pairs(image),
        "region": all_pairs(region),
        "teacher_bag": all_pairs(across),
        "student_bag": np.mean(within),
    }
