// Many candidates of one face -> one.
#pragma once

#include <vector>

#include "types.h"

namespace edgeface {

enum class Nms { hard, soft_linear, soft_gaussian, blending };

struct NmsOptions {
    Nms kind = Nms::hard;
    float iou_threshold = 0;
    float score_threshold = 0;  // below it the soft kinds drop a face they have decayed
    int pre_nms_top_k = 0;      // candidates considered, best first
    int max_faces = 0;
};

// Best score first; equal scores in the order of their priors, so that the result is the same everywhere.
// hard: a candidate goes when its IoU with a kept one exceeds the threshold.
// soft_linear, soft_gaussian: its score decays instead (Bodla et al., 2017, equations 3 and 4, sigma 0.5).
// blending: each kept face is the mean of the candidates it would have removed, weighted by exp(score), as
// the C++ programs published with the Ultra-Light detector do it (without their + 1 on widths).
std::vector<Detection> non_max_suppression(std::vector<Detection> candidates, const NmsOptions& options);

// Intersection over union; 0 for boxes without area.
float iou(const Box& a, const Box& b);

}  // namespace edgeface
