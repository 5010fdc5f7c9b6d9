"""Losses, heads, averages and figures of distillation as loops over Python floats, without fewshot."""

import math
from collections import deque


def dot(x, y):
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def unit(x):
    norm = math.sqrt(dot(x, x))
    return [a / norm for a in x]


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def softmax(logits):
    top = max(logits)
    powers = [math.exp(z - top) for z in logits]
    return [power / math.fsum(powers) for power in powers]


# Which pairs count, and how much.


def pair_weights(n_teacher, n_global, n_local, averaging):
    pairs = [(u, v) for u in range(n_teacher) for v in range(n_global + n_local) if u != v]
    large = [pair for pair in pairs if pair[1] < n_global]
    small = [pair for pair in pairs if pair[1] >= n_global]
    weights = [[0.0] * (n_global + n_local) for _ in range(n_teacher)]
    # DINO: one mean over all pairs. Mugs: L = 1/2 (mean over large + mean over small)
    groups = [pairs] if averaging == "all" or not large or not small else [large, small]
    for group in groups:
        for u, v in group:
            weights[u][v] = 1 / len(group) / len(groups)
    return weights


# Losses of one pair.


def cross_entropy(p, q):
    # H(p, q) = - sum_k p_k ln q_k
    return -math.fsum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def entropy(p):
    return cross_entropy(p, p)


def kl(p, q):
    return cross_entropy(p, q) - entropy(p)


def cluster_loss(teacher, student):
    return mean(cross_entropy(p, q) for p, q in zip(teacher, student, strict=True))


def info_nce(predictions, targets, queue, temperature):
    losses = []
    for p, t in zip(predictions, targets, strict=True):
        positive = math.exp(dot(p, t) / temperature)
        negatives = math.fsum(math.exp(dot(p, q) / temperature) for q in queue)
        losses.append(-math.log(positive / (positive + negatives)))
    return mean(losses)


# Instances and bags.


def match(student_tokens, teacher_tokens):
    # j*(i) = argmax_j cos(s_i, t_j)
    candidates = [unit(t) for t in teacher_tokens]
    cosines = [[dot(unit(s), t) for t in candidates] for s in student_tokens]
    return [row.index(max(row)) for row in cosines]


def instance_loss(teacher, student, matches):
    # mean over images and over the student's instances of H(Q_j*(i), q_i)
    per_image = []
    for own_teacher, own_student, own_matches in zip(teacher, student, matches, strict=True):
        per_image.append(mean(cross_entropy(own_teacher[j], q) for j, q in zip(own_matches, own_student, strict=True)))
    return mean(per_image)


def bag(instances, weights):
    # b_k = sum_i a_i z_ik
    return [math.fsum(a * z[k] for a, z in zip(weights, instances, strict=True)) for k in range(len(instances[0]))]


def gated_attention(instances, content, gate, score):
    # a = softmax_i( w . (tanh(V h_i) * sigmoid(U h_i)) )
    logits = []
    for h in instances:
        gated = [math.tanh(dot(v, h)) / (1 + math.exp(-dot(u, h))) for v, u in zip(content, gate, strict=True)]
        logits.append(dot(score, gated))
    return softmax(logits)


def literal_inter_level(image_logits, instance_logits, temperature):
    # mean over all B K entries of target (ln target - input); an entry with a target that is not positive counts as 0
    terms = []
    for image, instances in zip(image_logits, instance_logits, strict=True):
        for k, z in enumerate(image):
            target = math.fsum(instance[k] for instance in instances) / temperature
            terms.append(target * (math.log(target) - z / temperature) if target > 0 else 0.0)
    return mean(terms)


# Heads.


def linear(x, weight, bias=None):
    bias = [0.0] * len(weight) if bias is None else bias
    return [dot(row, x) + b for row, b in zip(weight, bias, strict=True)]


def gelu(x):
    return [a * (1 + math.erf(a / math.sqrt(2))) / 2 for a in x]


def mlp(x, layers):
    for i, (weight, bias) in enumerate(layers):
        x = linear(gelu(x) if i else x, weight, bias)
    return x


# What is remembered.


def fifo(pushes, capacity):
    kept = deque(maxlen=capacity)
    for rows in pushes:
        kept.extend(rows)
    return list(kept)


def nearest(query, rows, n_neighbours):
    order = sorted(range(len(rows)), key=lambda i: -dot(unit(query), unit(rows[i])))
    return [rows[i] for i in order[:n_neighbours]]


def averaged(start, history, momentum):
    # theta(n) = m^n theta_0 + (1 - m) sum_j m^(n-1-j) s_j
    n = len(history)
    return momentum**n * start + (1 - momentum) * math.fsum(
        momentum ** (n - 1 - j) * value for j, value in enumerate(history)
    )


# Figures of a batch.


def spread(features):
    rows = [unit(row) for row in features]
    n, d = len(rows), len(rows[0])
    deviations = []
    for column in zip(*rows, strict=True):
        center = mean(column)
        deviations.append(math.sqrt(math.fsum((x - center) ** 2 for x in column) / (n - 1)))
    return mean(deviations) * math.sqrt(d)


def divergence(assignments):
    center = [mean(column) for column in zip(*assignments, strict=True)]
    return mean(kl(p, center) for p in assignments)
