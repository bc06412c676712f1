// One detector shared by threads, each with a pool of its own underneath: the thread sanitizer looks for
// races, the comparison for lost updates.
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "small_detector.h"

namespace {

using namespace edgeface;

bool same(const std::vector<Detection>& a, const std::vector<Detection>& b) {
    bool equal = a.size() == b.size();
    for (std::size_t i = 0; equal && i < a.size(); ++i) {
        equal = std::memcmp(&a[i].box, &b[i].box, sizeof(Box)) == 0 && a[i].score == b[i].score;
    }
    return equal;
}

}  // namespace

int main() {
    const test::RandomFrame frame(64, 48);
    const auto alone = test::make_detector(1)->detect(frame.frame(), frame.whole()).faces;
    const auto shared = test::make_detector(2);
    std::vector<int> wrong(4);
    std::vector<std::thread> callers;
    for (int& count : wrong) {
        callers.emplace_back([&] {
            for (int i = 0; i < 50; ++i) {
                count += !same(shared->detect(frame.frame(), frame.whole()).faces, alone);
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    int failures = alone.empty();
    for (const int count : wrong) failures += count;
    std::printf("%zu faces; %d of 200 detects differ\n", alone.size(), failures);
    return failures;
}
