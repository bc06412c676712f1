#include "nms.h"

#include <algorithm>
#include <cmath>

namespace edgeface {
namespace {

constexpr float kSigma = 0.5F;  // soft_gaussian, the value of the paper's experiments

bool better(const Detection& a, const Detection& b) {
    return a.score != b.score ? a.score > b.score : a.prior < b.prior;
}

float area(const Box& box) { return std::max(0.0F, box.x2 - box.x1) * std::max(0.0F, box.y2 - box.y1); }

void keep_best(std::vector<Detection>& detections, int count) {
    const std::size_t kept = std::min(detections.size(), static_cast<std::size_t>(count));
    std::partial_sort(detections.begin(), detections.begin() + static_cast<std::ptrdiff_t>(kept),
                      detections.end(), better);
    detections.resize(kept);
}

std::vector<Detection> hard(const std::vector<Detection>& sorted, const NmsOptions& options) {
    std::vector<Detection> kept;
    kept.reserve(std::min(sorted.size(), static_cast<std::size_t>(options.max_faces)));
    for (const Detection& candidate : sorted) {
        if (kept.size() == static_cast<std::size_t>(options.max_faces)) break;
        const bool covered = std::any_of(kept.begin(), kept.end(), [&](const Detection& other) {
            return iou(candidate.box, other.box) > options.iou_threshold;
        });
        if (!covered) kept.push_back(candidate);
    }
    return kept;
}

float decay(float overlap, const NmsOptions& options) {
    if (options.kind == Nms::soft_gaussian) return std::exp(-overlap * overlap / kSigma);
    return overlap > options.iou_threshold ? 1 - overlap : 1;
}

std::vector<Detection> soft(std::vector<Detection> rest, const NmsOptions& options) {
    std::vector<Detection> kept;
    while (!rest.empty() && kept.size() < static_cast<std::size_t>(options.max_faces)) {
        std::swap(*std::min_element(rest.begin(), rest.end(), better), rest.back());
        const Detection best = rest.back();
        rest.pop_back();
        kept.push_back(best);
        for (Detection& other : rest) other.score *= decay(iou(best.box, other.box), options);
        rest.erase(std::remove_if(rest.begin(), rest.end(),
                                  [&](const Detection& d) { return d.score < options.score_threshold; }),
                   rest.end());
    }
    return kept;
}

void accumulate(Detection& sum, const Detection& member, float weight) {
    sum.box.x1 += member.box.x1 * weight;
    sum.box.y1 += member.box.y1 * weight;
    sum.box.x2 += member.box.x2 * weight;
    sum.box.y2 += member.box.y2 * weight;
    sum.score += member.score * weight;
    for (std::size_t i = 0; i < sum.landmarks.size(); ++i) {
        sum.landmarks[i].x += member.landmarks[i].x * weight;
        sum.landmarks[i].y += member.landmarks[i].y * weight;
    }
}

Detection blend(const std::vector<Detection>& cluster) {
    float total = 0;
    for (const Detection& member : cluster) total += std::exp(member.score);
    Detection sum;
    sum.prior = cluster.front().prior;
    for (const Detection& member : cluster) accumulate(sum, member, std::exp(member.score) / total);
    // The weights add up to 1 only within rounding.
    sum.score = std::min(sum.score, cluster.front().score);
    return sum;
}

std::vector<Detection> blending(std::vector<Detection> rest, const NmsOptions& options) {
    std::vector<Detection> kept;
    while (!rest.empty()) {
        const Box best = rest.front().box;
        // The best is its own cluster's first member even when it has no area to overlap with.
        const auto split = std::stable_partition(rest.begin() + 1, rest.end(), [&](const Detection& d) {
            return iou(best, d.box) > options.iou_threshold;
        });
        kept.push_back(blend({rest.begin(), split}));
        rest.erase(rest.begin(), split);
    }
    keep_best(kept, options.max_faces);
    return kept;
}

}  // namespace

float iou(const Box& a, const Box& b) {
    const Box overlap{std::max(a.x1, b.x1), std::max(a.y1, b.y1), std::min(a.x2, b.x2), std::min(a.y2, b.y2)};
    const float shared = area(overlap);
    return shared > 0 ? shared / (area(a) + area(b) - shared) : 0;
}

std::vector<Detection> non_max_suppression(std::vector<Detection> candidates, const NmsOptions& options) {
    keep_best(candidates, options.pre_nms_top_k);
    switch (options.kind) {
        case Nms::hard:
            return hard(candidates, options);
        case Nms::soft_linear:
        case Nms::soft_gaussian:
            return soft(std::move(candidates), options);
        case Nms::blending:
            return blending(std::move(candidates), options);
    }
    return {};
}

}  // namespace edgeface
