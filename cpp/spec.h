// What a model was trained with, as Python read and checked it (src/edgeface/spec.py).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "types.h"

namespace edgeface {

enum class Order { rgb, bgr, gray };
enum class Resize { stretch, letterbox };
enum class Grid { cell, stride, corner };
enum class Encoding { offsets, corners };
enum class Activation { none, softmax };

struct InputSpec {
    Size size;
    Order channels = Order::rgb;
    std::array<float, 3> mean{};  // (pixel - mean) * scale
    std::array<float, 3> scale{};
    Resize resize = Resize::stretch;
};

struct PriorSpec {
    std::vector<int> strides;
    std::vector<std::vector<float>> min_sizes;  // one list a stride, in network input pixels
    Grid grid = Grid::cell;
    bool clip = false;
    std::array<float, 2> variances{};  // of the centre, of the size
};

struct HeadSpec {
    std::string scores;
    std::string boxes;
    std::string landmarks;   // empty: the model has none
    std::string objectness;  // empty: the score is not divided
    Encoding encoding = Encoding::offsets;
    Activation activation = Activation::none;  // what decode still has to apply to the scores
};

struct ModelSpec {
    InputSpec input;
    PriorSpec priors;
    HeadSpec heads;
};

}  // namespace edgeface
