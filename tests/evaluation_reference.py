"""Average precision from its definition: one threshold after the other, everything matched anew, float64.

As the WIDER FACE toolbox goes about it: at each of its 1000 thresholds, every image's detections are gone
through, best first. Shares no code with edgeface.
"""

from __future__ import annotations


def overlap(a, b, border):
    """IoU of two lists x1, y1, x2, y2, ...; `border` pixels are added to each width and height."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + border
    height = min(a[3], b[3]) - max(a[1], b[1]) + border
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0] + border) * (box[3] - box[1] + border) for box in (a, b))
    return width * height / (areas - width * height)


def owner(detection, faces, border):
    """Which face is overlapped most, the first of several, if by at least half; else None."""
    overlaps = [overlap(detection, face, border) for face in faces]
    best = max(overlaps, default=0.0)
    return overlaps.index(best) if best >= 0.5 else None


def hits_and_false(owners, counts):
    """Of detections, best first; `counts[face]` is whether the face does, `None` for no face at all."""
    taken, false = set(), 0
    for face in owners:
        if face is None or face in taken:
            false += 1
        elif counts[face]:
            taken.add(face)
    return len(taken), false


def area(points):
    """Below (recall, precision) points, where precision is the best one at this recall or beyond."""
    total, before = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        total += (recall - before) * max(precision for _, precision in points[i:])
        before = recall
    return total


def average_precision(images, *, border=0, thresholds=None, faceless=True):
    """Of images (faces, counts, detections): lists x1, y1, x2, y2, of bool, of x1, y1, x2, y2, score.

    Args:
        images: Detections best first.
        border: See `overlap`.
        thresholds: How many, equally far apart in normalised score; None: one for every score.
        faceless: Whether images without any face count.
    """
    scores = [row[4] for _, _, rows in images for row in rows]
    low, high = min(scores, default=0), max(scores, default=0)

    def normalised(score):
        return (score - low) / (high - low) if high > low else 1.0

    if thresholds is None:
        levels = sorted({normalised(score) for score in scores}, reverse=True)
    else:
        levels = [1 - (i + 1) / thresholds for i in range(thresholds)]
    faces = sum(sum(counts) for _, counts, _ in images)
    # Only where a detection belongs is kept between thresholds.
    judged = [
        ([normalised(row[4]) for row in rows], [owner(row, boxes, border) for row in rows], counts)
        for boxes, counts, rows in images
        if boxes or faceless
    ]
    points = []
    for level in levels:
        hits = false = 0
        for values, owners, counts in judged:
            reaching = [face for value, face in zip(values, owners) if value >= level]
            image_hits, image_false = hits_and_false(reaching, counts)
            hits, false = hits + image_hits, false + image_false
        points.append((hits / faces, hits / (hits + false) if hits + false else 0.0))
    return area(points)
