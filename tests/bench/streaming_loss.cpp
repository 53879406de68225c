// Times the loss of K steps of a draft on the CPU: norm, head, cross-entropy against a teacher, and
// all gradients. Usage: streaming_loss WAY ROWS HIDDEN VOCABULARY STEPS ROUNDS
//   WAY: "stacked" for one tensor of all steps' rows, or the loss's name for rows of the steps' own
//   outputs. Prints one JSON object.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "outrider/json.h"
#include "outrider/ops/rms_norm.h"
#include "outrider/ops/streaming_cross_entropy.h"

namespace outrider {
namespace {

constexpr double kEps = 1e-5;

struct Sizes {
  int64_t rows, hidden, vocabulary, steps;
};

struct Inputs {
  std::vector<at::Tensor> outputs;  // step k has k rows less
  at::Tensor index, norm, head, base_rows, base_head, weights;

  explicit Inputs(const Sizes& s)
      : norm(at::ones({s.hidden}).requires_grad_()),
        head((at::randn({s.vocabulary, s.hidden}) * 0.05).requires_grad_()),
        base_rows(at::randn({s.rows, s.hidden})),
        base_head(at::randn({s.vocabulary, s.hidden}) * 0.05) {
    const auto place = at::arange(s.rows) - at::arange(s.steps).unsqueeze(1);
    index = at::where(place.ge(0), place, -1);
    weights = place.ge(0).to(at::kFloat) / s.rows;
    for (int64_t k = 0; k < s.steps; ++k) {
      outputs.push_back(at::randn({1, s.rows - k, s.hidden}).requires_grad_());
    }
  }

  ops::TeacherTargets teacher() const {
    return {base_rows, [&](const at::Tensor& rows) { return at::linear(rows, base_head); }, {}};
  }

  at::Tensor stacked() const {
    std::vector<at::Tensor> rows;
    for (size_t k = 0; k < outputs.size(); ++k) {
      const auto own = index[static_cast<int64_t>(k)].clamp_min(0);
      rows.push_back(outputs[k].flatten(0, 1).index_select(0, own));
    }
    return ops::rms_norm(at::stack(rows), norm, kEps);
  }

  at::Tensor loss(const std::string& way) const {
    if (way == "stacked") {
      return ops::streaming_cross_entropy(stacked(), head, teacher(), weights).total;
    }
    return ops::streaming_cross_entropy(ops::StudentRows(outputs, index).normed(norm, kEps), head,
                                        teacher(), weights, {}, divergence_of(way).value())
        .total;
  }
};

Json measure(const std::string& way, const Sizes& sizes, int rounds) {
  at::manual_seed(1);
  const Inputs inputs(sizes);
  auto trained = inputs.outputs;
  trained.insert(trained.end(), {inputs.norm, inputs.head});
  std::vector<double> seconds;
  double value = 0;
  for (int i = 0; i < rounds + 1; ++i) {  // the first one warms up
    const auto begin = std::chrono::steady_clock::now();
    const auto loss = inputs.loss(way);
    torch::autograd::grad({loss}, trained);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    value = loss.item<double>();
    if (i > 0) seconds.push_back(taken.count());
  }
  std::sort(seconds.begin(), seconds.end());
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {{"median_seconds", seconds[seconds.size() / 2]},
          {"peak_megabytes", static_cast<double>(usage.ru_maxrss) / 1024.0},
          {"threads", at::get_num_threads()},
          {"loss", value}};
}

}  // namespace
}  // namespace outrider

int main(int argc, char** argv) {
  if (argc != 7) {
    fmt::print(stderr, "usage: streaming_loss WAY ROWS HIDDEN VOCABULARY STEPS ROUNDS\n");
    return 2;
  }
  const auto number = [&](int place) { return static_cast<int64_t>(std::stoll(argv[place])); };
  const outrider::Sizes sizes{number(2), number(3), number(4), number(5)};
  fmt::print("{}\n", outrider::measure(argv[1], sizes, std::stoi(argv[6])).dump());
}
