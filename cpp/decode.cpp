#include "decode.h"

#include <algorithm>
#include <cmath>

namespace edgeface {
namespace {

// exp(10) is 22,000 times a prior: no face, and areas still far from overflow.
constexpr float kMaxLogScale = 10;

// A group photograph has about as many; more only costs another allocation.
constexpr std::size_t kExpectedCandidates = 256;

float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// The smallest logit difference that can reach the score: lets most rows go without an exp().
float logit_bound(float score_threshold) {
    if (score_threshold <= 0) return -INFINITY;
    // A little low, since log and exp round (near 1 a lot: stop where the sigmoid still resolves scores);
    // the score itself is compared afterwards.
    const float score = std::min(score_threshold, 0.999F);
    return std::log(score / (1 - score)) - 1e-4F;
}

Box decode_offsets(const float* offsets, const Prior& prior, const std::array<float, 2>& variances) {
    const float x = prior.x + offsets[0] * variances[0] * prior.width;
    const float y = prior.y + offsets[1] * variances[0] * prior.height;
    const float width = prior.width * std::exp(std::min(offsets[2] * variances[1], kMaxLogScale));
    const float height = prior.height * std::exp(std::min(offsets[3] * variances[1], kMaxLogScale));
    return {x - width / 2, y - height / 2, x + width / 2, y + height / 2};
}

Box to_pixels(Box box, Size input) {
    const float width = static_cast<float>(input.width);
    const float height = static_cast<float>(input.height);
    return {box.x1 * width, box.y1 * height, box.x2 * width, box.y2 * height};
}

Point decode_point(const float* offsets, const Prior& prior, const HeadSpec& heads, float variance) {
    if (heads.encoding == Encoding::corners) return {offsets[0], offsets[1]};
    return {prior.x + offsets[0] * variance * prior.width, prior.y + offsets[1] * variance * prior.height};
}

bool is_finite(const Detection& detection) {
    // The area too: NMS would divide an infinite one by itself. It is finite only where the differences are.
    const Box& box = detection.box;
    bool finite = std::isfinite(box.x1) && std::isfinite(box.y1) &&
                  std::isfinite((box.x2 - box.x1) * (box.y2 - box.y1));
    for (const Point& point : detection.landmarks) {
        finite = finite && std::isfinite(point.x) && std::isfinite(point.y);
    }
    return finite;
}

bool reaches(const Box& box, Point min_face) {
    return box.x2 - box.x1 >= min_face.x || box.y2 - box.y1 >= min_face.y;
}

// The face's score of one row, or -1 when it cannot reach the threshold (NaN included).
class Scores {
  public:
    Scores(const Heads& heads, Activation activation, float threshold)
        : scores_(heads.scores),
          objectness_(heads.objectness),
          softmax_(activation == Activation::softmax),
          threshold_(threshold),
          bound_(softmax_ ? logit_bound(least(threshold)) : least(threshold)) {}

    float operator[](int row) const {
        const float* values = scores_.data + static_cast<std::ptrdiff_t>(row) * scores_.columns;
        float score = values[scores_.columns - 1];
        if (softmax_ && scores_.columns == 2) score -= values[0];
        if (!(score >= bound_)) return -1;
        if (softmax_) score = sigmoid(score);
        score = std::min(score, 1.0F);
        if (is_divided()) score = std::sqrt(score * std::clamp(objectness_.data[row], 0.0F, 1.0F));
        return score >= threshold_ ? score : -1;
    }

  private:
    bool is_divided() const { return objectness_.data != nullptr; }

    // Of what the objectness, at most 1, is multiplied with. A little low, since squares and roots round.
    float least(float threshold) const { return is_divided() ? threshold * threshold * 0.999F : threshold; }

    Head scores_;
    Head objectness_;
    bool softmax_;
    float threshold_;
    float bound_;
};

}  // namespace

std::vector<Detection> decode(const Heads& heads, const std::vector<Prior>& priors, const ModelSpec& spec,
                              Size input, float score_threshold, Point min_face) {
    std::vector<Detection> found;
    found.reserve(kExpectedCandidates);
    const Scores scores(heads, spec.heads.activation, score_threshold);
    for (int row = 0; row < heads.scores.rows; ++row) {
        // Most priors are background: skip them before the exp() of decode_offsets.
        const float score = scores[row];
        if (score < 0) continue;
        const Prior& prior = priors[static_cast<std::size_t>(row)];
        const float* offsets = heads.boxes.data + static_cast<std::ptrdiff_t>(row) * heads.boxes.columns;
        Detection detection;
        detection.score = score;
        detection.prior = row;
        const bool corners = spec.heads.encoding == Encoding::corners;
        detection.box = to_pixels(corners ? Box{offsets[0], offsets[1], offsets[2], offsets[3]}
                                          : decode_offsets(offsets, prior, spec.priors.variances),
                                  input);
        if (heads.landmarks.data != nullptr) {
            const float* points =
                heads.landmarks.data + static_cast<std::ptrdiff_t>(row) * heads.landmarks.columns;
            for (Point& point : detection.landmarks) {
                point = decode_point(points, prior, spec.heads, spec.priors.variances[0]);
                point.x *= static_cast<float>(input.width);
                point.y *= static_cast<float>(input.height);
                points += 2;
            }
        }
        if (is_finite(detection) && reaches(detection.box, min_face)) found.push_back(detection);
    }
    return found;
}

}  // namespace edgeface
