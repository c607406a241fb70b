"""What unlabeled images say about models, image by image and class by class in plain Python."""

from __future__ import annotations

import math

from mll_hf.selection import evidence


def softmax(row):
    powers = [math.exp(z - max(row)) for z in row]
    return [power / sum(powers) for power in powers]


def entropy(row):
    return -sum(p * math.log(p) for p in row if p > 0)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def image_scale(logits):
    """Of one model's logits [N][C]: deviation from (mean of the image) + (mean of the class) - (mean of all)."""
    total = mean(z for row in logits for z in row)
    of_class = [mean(column) for column in zip(*logits, strict=True)]
    left = [z - mean(row) - of_class[y] + total for row in logits for y, z in enumerate(row)]
    between_classes = math.sqrt(mean((z - mean(row)) ** 2 for row in logits for z in row))
    least = evidence._LEAST_SHARE * between_classes + evidence._LEAST_SCALE
    return max(math.sqrt(mean(z**2 for z in left)), least)


def information(probabilities):
    """Mutual information of one model's answers [N][C], over the most that C classes (or two) allow."""
    n_classes = len(probabilities[0])
    marginal = [mean(column) for column in zip(*probabilities, strict=True)]
    nats = entropy(marginal) - mean(entropy(row) for row in probabilities)
    return min(max(nats / math.log(max(n_classes, 2)), 0), 1)


def pooling_weights(scores, n_classes):
    """Shares in proportion to C to the power of a multiple of the score."""
    powers = [n_classes ** (evidence._STEEPNESS * (score - max(scores))) for score in scores]
    return [power / sum(powers) for power in powers]


def expected_shares(pooled):
    n_classes = len(pooled[0])
    answers = [1] * n_classes
    for row in pooled:
        answers[row.index(max(row))] += 1
    powers = [count**evidence._TRUST_IN_ANSWERS for count in answers]
    return [power / sum(powers) for power in powers]


def plan_offsets(scaled, shares):
    """Of one model: Sinkhorn's algorithm on the plan itself: scale the columns, then the rows, and so on."""
    n_images, n_classes = len(scaled), len(shares)
    plan, offsets = [softmax(row) for row in scaled], [0.0] * n_classes
    for _ in range(evidence._STEPS):
        factors = [
            share / max(mean(column), 1e-300) for share, column in zip(shares, zip(*plan, strict=True), strict=True)
        ]
        offsets = [offset + math.log(factor) for offset, factor in zip(offsets, factors, strict=True)]
        plan = [[p * factor for p, factor in zip(row, factors, strict=True)] for row in plan]
        plan = [[p / sum(row) for p in row] for row in plan]
    kept = n_images / (n_images + evidence._IMAGES_PER_CLASS * n_classes)
    return [kept * (offset - mean(offsets)) for offset in offsets]


def pool(scaled, weights, offsets):
    """[N][C] weighted mean over models of the probabilities of their scaled logits [M][N][C] plus offsets [M][C]."""
    answers = [[0.0] * len(row) for row in scaled[0]]
    for model, weight, leans in zip(scaled, weights, offsets, strict=True):
        for x, row in enumerate(model):
            p = softmax([z + lean for z, lean in zip(row, leans, strict=True)])
            answers[x] = [answer + weight * q for answer, q in zip(answers[x], p, strict=True)]
    return answers


def calibrate(logits, prior):
    """Temperatures [M], offsets [M][C], information [M] and pooling weights [M] from logits [M][N][C] and prior [M]."""
    n_classes = len(logits[0][0])
    temperatures = [image_scale(model) / evidence._SHARPNESS for model in logits]
    scaled = [[[z / t for z in row] for row in model] for model, t in zip(logits, temperatures, strict=True)]
    told = [information([softmax(row) for row in model]) for model in scaled]
    scores = [tells + evidence._LABEL_SHARE * p for tells, p in zip(told, prior, strict=True)]
    weights = pooling_weights(scores, n_classes)
    shares = expected_shares(pool(scaled, weights, [[0.0] * n_classes] * len(logits)))
    return temperatures, [plan_offsets(model, shares) for model in scaled], told, weights


def transport(logits, prior):
    """[N][C] pooled answers to images that calibrate the models themselves."""
    temperatures, offsets, _, weights = calibrate(logits, prior)
    scaled = [[[z / t for z in row] for row in model] for model, t in zip(logits, temperatures, strict=True)]
    return pool(scaled, weights, offsets)
