"""What unlabeled images say about models, image by image and class by class in plain Python."""

from __future__ import annotations

import math

from mll_hf.selection import unlabeled


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
    least = unlabeled._MIN_SCALE_SHARE * between_classes + unlabeled._MIN_SCALE
    return max(math.sqrt(mean(z**2 for z in left)), least)


def information(probabilities):
    """Mutual information of one model's answers [N][C], over the most that C classes (or two) allow."""
    n_classes = len(probabilities[0])
    marginal = [mean(column) for column in zip(*probabilities, strict=True)]
    nats = entropy(marginal) - mean(entropy(row) for row in probabilities)
    return min(max(nats / math.log(max(n_classes, 2)), 0), 1)


def pooling_weights(scores, n_classes):
    """Shares in proportion to C to the power of a multiple of the score."""
    powers = [n_classes ** (unlabeled._STEEPNESS * (score - max(scores))) for score in scores]
    return [power / sum(powers) for power in powers]


def expected_shares(answers, n_classes, n_frequent):
    counts = [1 + sum(answer == y for answer in answers) for y in range(n_classes)]
    leading = [n_frequent > 0 and sum(other > count for other in counts) < n_frequent for count in counts]
    left = sum(count for count, leads in zip(counts, leading, strict=True) if not leads)
    powers = [count**unlabeled._TEMPERING for count, leads in zip(counts, leading, strict=True) if not leads]
    return [
        (count if leads else left * count**unlabeled._TEMPERING / sum(powers)) / sum(counts)
        for count, leads in zip(counts, leading, strict=True)
    ]


def plan_offsets(scaled, shares):
    """Of one model: Sinkhorn's algorithm on the plan itself: scale the columns, then the rows, and so on."""
    n_images, n_classes = len(scaled), len(shares)
    plan, offsets = [softmax(row) for row in scaled], [0.0] * n_classes
    for _ in range(unlabeled._STEPS):
        factors = [
            share / max(mean(column), 1e-300) for share, column in zip(shares, zip(*plan, strict=True), strict=True)
        ]
        offsets = [offset + math.log(factor) for offset, factor in zip(offsets, factors, strict=True)]
        plan = [[p * factor for p, factor in zip(row, factors, strict=True)] for row in plan]
        plan = [[p / sum(row) for p in row] for row in plan]
    kept = n_images / (n_images + n_classes)
    return [kept * (offset - mean(offsets)) for offset in offsets]


def pool(scaled, weights, offsets):
    """[N][C] weighted mean over models of the probabilities of their scaled logits [M][N][C] plus offsets [M][C]."""
    answers = [[0.0] * len(row) for row in scaled[0]]
    for model, weight, leans in zip(scaled, weights, offsets, strict=True):
        for x, row in enumerate(model):
            p = softmax([z + lean for z, lean in zip(row, leans, strict=True)])
            answers[x] = [answer + weight * q for answer, q in zip(answers[x], p, strict=True)]
    return answers


def score(agrees, prior):
    return agrees + unlabeled._RECALL_WEIGHT * prior


def compare_models(probabilities, shares, weights):
    """Consent and confirmation [M][N] of probabilities [M][N][C]: Bayes' rule, class by class."""
    n_models, classes = len(probabilities), range(len(shares))
    log_ratio, confirmation = [], []
    for m in range(n_models):
        others = {k: max(weights[k], 1e-9) for k in range(n_models) if k != m}
        of_model = []
        for x, row in enumerate(probabilities[m]):
            rest = [sum(w * probabilities[k][x][y] for k, w in others.items()) for y in classes]
            rest = [p / sum(others.values()) for p in rest] if others else shares
            joint = [p * q / share for p, q, share in zip(row, rest, shares, strict=True)]
            total = max(sum(joint), 1e-12)
            of_model.append((math.log(total), joint[row.index(max(row))] / total))
        log_ratio.append([nats for nats, _ in of_model])
        confirmation.append([p for _, p in of_model])
    return log_ratio, confirmation


def correct(scaled, shares, weights):
    """Offsets [M][C], log-probability of the shares, and answers [N] with some shares."""
    n_images, n_classes = len(scaled[0]), len(shares)
    offsets = [plan_offsets(model, shares) for model in scaled]
    pairs = zip(scaled, offsets, strict=True)
    corrected = [[softmax([z + b for z, b in zip(row, bias, strict=True)]) for row in model] for model, bias in pairs]
    log_ratio, _ = compare_models(corrected, shares, weights)
    kept = n_images / (n_images + n_classes)
    common = [sum(w * bias[y] for w, bias in zip(weights, offsets, strict=True)) / kept for y in range(n_classes)]
    likelihood = sum(w * sum(nats) for w, nats in zip(weights, log_ratio, strict=True))
    evenness = sum(math.log(n_classes * share) for share in shares)
    return offsets, likelihood + evenness - sum(b**2 for b in common) / 2, answers_of(pool(scaled, weights, offsets))


def answers_of(pooled):
    return [max(range(len(row)), key=[round(p, 9) for p in row].__getitem__) for row in pooled]


def calibrate(logits, prior):
    """Temperatures [M], offsets [M][C], information and agreement [M], shares [C] and pooling weights [M].

    Of logits [M][N][C] and prior [M].
    """
    n_classes = len(logits[0][0])
    temperatures = [image_scale(model) / unlabeled._SHARPNESS for model in logits]
    scaled = [[[z / t for z in row] for row in model] for model, t in zip(logits, temperatures, strict=True)]
    told = [information([softmax(row) for row in model]) for model in scaled]
    weights = pooling_weights([score(*parts) for parts in zip(told, prior, strict=True)], n_classes)
    answers = answers_of(pool(scaled, weights, [[0.0] * n_classes] * len(logits)))
    best = None
    for n_frequent in (0, 1, n_classes):
        shares = expected_shares(answers, n_classes, n_frequent)
        offsets, probability, together = correct(scaled, shares, weights)
        if best is None or round(probability, 9) > best[0]:
            best = round(probability, 9), offsets, together, shares
    _, offsets, together, shares = best
    agrees = [
        mean(row.index(max(row)) == answer for row, answer in zip(map(softmax, model), together, strict=True))
        for model in scaled
    ]
    weights = pooling_weights([score(*parts) for parts in zip(agrees, prior, strict=True)], n_classes)
    return temperatures, offsets, told, agrees, shares, weights
